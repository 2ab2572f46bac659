// Package config says what a node was told: built-in values, a file, the
// environment and -s, merged into one tree, with a typed view for the daemon.
//
// The tree is kept whole, unknown keys included, with the case of its keys:
// they name environment variables and flags of openYuanrong's components. That is
// why it is built on koanf and go-toml; viper folds keys to lower case.
package config

import (
	_ "embed"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/knadh/koanf/v2"
	"github.com/pelletier/go-toml/v2"

	"yr/pkg/yr"
)

// DefaultFile is read when no -c names another file, and may be absent.
const DefaultFile = "/etc/yuanrong/config.toml"

// Defaults is the built-in configuration, as TOML with comments.
//
//go:embed defaults.toml
var Defaults string

// delimiter joins path elements inside koanf. No TOML key holds it, so that a
// quoted key with a dot ("ca.crt") stays one key.
const delimiter = "\x00"

// Sources says where a configuration comes from, weakest first.
type Sources struct {
	Host   Host                // what was found out on this machine
	File   string              // -c; empty: DefaultFile if it exists
	Getenv func(string) string // the environment; nil: os.Getenv
	Set    []string            // -s, in the order given
	Flags  map[string]any      // options that stand for keys, as a tree
}

// Config is a merged configuration. It is immutable.
type Config struct {
	k         *koanf.Koanf
	user      *koanf.Koanf // only what somebody set: file, environment, -s, flags
	addresses []string     // of this machine
}

// Load merges the sources. An error is a *yr.Error whose text says which source
// is wrong, where, and how it would be right.
func Load(s Sources) (*Config, error) {
	c := &Config{k: koanf.New(delimiter), user: koanf.New(delimiter), addresses: s.Host.Addresses}
	builtin, err := parse(Defaults)
	if err != nil {
		return nil, fmt.Errorf("built-in configuration: %w", err)
	}
	file, err := readFile(s.File)
	if err != nil {
		return nil, err
	}
	set, err := ParseSet(s.Set)
	if err != nil {
		return nil, err
	}
	getenv := s.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	for _, layer := range []map[string]any{builtin, s.Host.tree()} {
		if err := c.k.Load(tree(layer), nil); err != nil {
			return nil, err
		}
	}
	for _, layer := range []map[string]any{file, fromEnvironment(getenv), set, s.Flags} {
		for _, k := range []*koanf.Koanf{c.k, c.user} {
			if err := k.Load(tree(layer), nil); err != nil {
				return nil, err
			}
		}
	}
	c.fillDependent()
	return c, nil
}

// Tree returns a copy of the merged configuration.
func (c *Config) Tree() map[string]any { return c.k.Raw() }

// TOML renders the merged configuration; loading it as a file gives the same tree.
func (c *Config) TOML() ([]byte, error) { return toml.Marshal(c.k.Raw()) }

// Save writes the configuration for the daemon, readable by its user alone
// (it may hold the token).
func (c *Config) Save(path string) error {
	text, err := c.TOML()
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// With returns a copy in which the key has that value.
func (c *Config) With(value any, key ...string) *Config {
	d := &Config{k: c.k.Copy(), user: c.user, addresses: c.addresses}
	_ = d.k.Set(strings.Join(key, delimiter), value)
	return d
}

// DeployPath is the session directory that somebody chose, empty if it is to be
// made under the prefix.
func (c *Config) DeployPath() string { return c.text("values", "deploy_path") }

// SetByUser reports whether somebody chose this key, rather than the defaults.
func (c *Config) SetByUser(key ...string) bool {
	return c.user.Exists(strings.Join(key, delimiter))
}

func (c *Config) get(key ...string) any { return c.k.Get(strings.Join(key, delimiter)) }

// fillDependent derives the values whose default is another value.
func (c *Config) fillDependent() {
	derive := func(key string, from any) {
		if c.text("values", key) == "" && from != nil {
			_ = c.k.Set("values"+delimiter+key, from)
		}
	}
	derive("local_ip", c.get("values", "host_ip"))
	if memory, err := c.number("values", "memory_num"); err == nil {
		derive("shared_memory_num", int64(memory/3))
	}
}

// fromEnvironment is the layer of the environment variables that openYuanrong documents.
func fromEnvironment(getenv func(string) string) map[string]any {
	values := map[string]any{}
	for key, name := range map[string]string{"node_id": "YR_NODE_ID", "host_ip": "YR_IP_ADDRESS", "token": "YR_TOKEN"} {
		if v := getenv(name); v != "" {
			values[key] = v
		}
	}
	if len(values) == 0 {
		return nil
	}
	return map[string]any{"values": values}
}

// ReadTree reads the tree of a configuration that Save has written.
func ReadTree(path string) (map[string]any, error) { return readFile(path) }

func readFile(path string) (map[string]any, error) {
	named := path != ""
	if !named {
		path = DefaultFile
	}
	text, err := os.ReadFile(path)
	if err != nil {
		if !named && os.IsNotExist(err) {
			return nil, nil
		}
		return nil, yr.E("read configuration", yr.ParamInvalid, "%v", err)
	}
	t, err := parse(string(text))
	if err != nil {
		return nil, yr.E("read configuration", yr.ParamInvalid, "%s: %v", path, err)
	}
	return t, nil
}

// parse reads TOML; its errors say line and column.
func parse(text string) (map[string]any, error) {
	t := map[string]any{}
	if err := toml.Unmarshal([]byte(text), &t); err != nil {
		var de *toml.DecodeError
		if ok := asDecodeError(err, &de); ok {
			row, col := de.Position()
			return nil, fmt.Errorf("line %d, column %d: %s", row, col, strings.TrimPrefix(de.Error(), "toml: "))
		}
		return nil, err
	}
	return t, nil
}

// tree makes a map a koanf source.
type tree map[string]any

// Read returns the map; koanf copies what it merges.
func (t tree) Read() (map[string]any, error) { return t, nil }

// ReadBytes is the other way to be a source.
func (t tree) ReadBytes() ([]byte, error) { return nil, fmt.Errorf("not a byte source") }

// text reads a scalar as text: numbers and booleans are accepted too.
func (c *Config) text(key ...string) string {
	switch v := c.get(key...).(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// number reads a number, also one written as text; an absent or empty one is 0.
func (c *Config) number(key ...string) (float64, error) {
	s := strings.TrimSpace(c.text(key...))
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, wrong(key, s, "a number, as in %s=1000", strings.Join(key, "."))
	}
	return n, nil
}

// truth reads a boolean, also one written as text; an absent or empty one is false.
func (c *Config) truth(key ...string) (bool, error) {
	s := strings.ToLower(strings.TrimSpace(c.text(key...)))
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, wrong(key, s, "true or false")
	}
	return b, nil
}

func wrong(key []string, value, want string, args ...any) error {
	return yr.E("configuration", yr.ParamInvalid, "%s is %q, but must be %s",
		strings.Join(key, "."), value, fmt.Sprintf(want, args...))
}

// Put sets a key of a tree, making the tables on the way.
func Put(t map[string]any, path []string, value any) {
	for _, name := range path[:len(path)-1] {
		next, ok := t[name].(map[string]any)
		if !ok {
			next = map[string]any{}
			t[name] = next
		}
		t = next
	}
	t[path[len(path)-1]] = value
}
