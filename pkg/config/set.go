package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"yr/pkg/yr"
)

// ParseSet reads -s options. Each must be a TOML assignment; all of them, one a
// line, are one TOML document. An error names the option, the column, and what
// was probably meant.
func ParseSet(options []string) (map[string]any, error) {
	for _, o := range options {
		if err := checkAssignment(o); err != nil {
			return nil, err
		}
	}
	t := map[string]any{}
	err := toml.Unmarshal([]byte(strings.Join(options, "\n")), &t)
	if err == nil {
		return t, nil
	}
	var de *toml.DecodeError
	if !asDecodeError(err, &de) {
		return nil, yr.E("read -s", yr.ParamInvalid, "%v", err)
	}
	// Every option alone is right, so two of them contradict each other.
	row, _ := de.Position()
	return nil, yr.E("read -s", yr.ParamInvalid, "-s %s contradicts an earlier -s: %s; give each key once",
		shellQuote(optionAt(options, row)), strings.TrimPrefix(de.Error(), "toml: "))
}

func checkAssignment(o string) error {
	trimmed := strings.TrimSpace(o)
	key, value, assigned := strings.Cut(trimmed, "=")
	if !assigned || strings.HasPrefix(trimmed, "[") || strings.HasPrefix(trimmed, "#") {
		return yr.E("read -s", yr.ParamInvalid, "-s %s is not KEY=VALUE; for example: -s 'values.cpu_num=4000'", shellQuote(o))
	}
	err := toml.Unmarshal([]byte(o), &map[string]any{})
	if err == nil {
		return nil
	}
	where := ""
	var de *toml.DecodeError
	if asDecodeError(err, &de) {
		row, col := de.Position()
		where = fmt.Sprintf(" at column %d", col)
		if row > 1 {
			where = fmt.Sprintf(" at line %d, column %d", row, col)
		}
	}
	return yr.E("read -s", yr.ParamInvalid, "-s %s is not TOML%s: %s; %s", shellQuote(o), where,
		strings.TrimPrefix(err.Error(), "toml: "), suggest(strings.TrimSpace(key), strings.TrimSpace(value)))
}

// suggest guesses what was meant. Most often a text lacks its quotes, because it
// was given none or because the shell took them.
func suggest(key, value string) string {
	bare := strings.Trim(value, `"'`)
	if strings.HasPrefix(bare, "{") {
		bare = quoteJSONKeys(bare)
	}
	better := key + "=" + strconv.Quote(bare)
	if toml.Unmarshal([]byte(better), &map[string]any{}) != nil {
		return `for example: -s 'values.host_ip="10.0.0.1"'`
	}
	return "did you mean: -s " + shellQuote(better)
}

// quoteJSONKeys repairs {ssd:1} and {"ssd":1} with or without backslashes.
func quoteJSONKeys(s string) string {
	s = strings.ReplaceAll(s, `\`, "")
	var b strings.Builder
	for _, part := range strings.SplitAfter(s, ",") {
		k, v, ok := strings.Cut(part, ":")
		if !ok {
			b.WriteString(part)
			continue
		}
		open := ""
		for strings.HasPrefix(k, "{") || strings.HasPrefix(k, " ") {
			open, k = open+k[:1], k[1:]
		}
		b.WriteString(open + strconv.Quote(strings.Trim(k, `" `)) + ":" + v)
	}
	return b.String()
}

// optionAt finds the option that holds line row (from 1) of the joined document.
func optionAt(options []string, row int) string {
	line := 0
	for _, o := range options {
		line += 1 + strings.Count(o, "\n")
		if row <= line {
			return o
		}
	}
	return strings.Join(options, " ")
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func asDecodeError(err error, de **toml.DecodeError) bool { return errors.As(err, de) }
