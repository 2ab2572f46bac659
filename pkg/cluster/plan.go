package cluster

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"yr/pkg/yr"
)

// foundingToken is part of what several configured masters derive the cluster's
// id from, each for itself.
const foundingToken = "etcd-cluster-1" //nolint:gosec // a name, not a secret

// A voter that is alone has a name instead of an address; growing replaces it.
const loneName = "yr"

var lonePeer = url.URL{Scheme: "unix", Host: "yr-single-voter"}

// plan is how etcd is to be started. cluster, token and state matter to an empty
// directory only; afterwards etcd knows them from its log.
type plan struct {
	several bool // listen for peers, be patient, sync to the disk
	fresh   bool // the directory is empty
	name    string
	cluster string
	token   string
	state   string
}

// ErrOtherCluster is inside the error of a master whose configured companions
// have a cluster without it.
var ErrOtherCluster = errors.New("the other masters belong to another cluster")

// plan decides how to start from what is in the directory, what is configured,
// and, if the directory is empty, what the other masters say.
func (m *Member) plan(ctx context.Context) (plan, error) {
	peers := m.options.Peers
	grown, err := m.grown()
	if err != nil {
		return plan{}, err
	}
	fresh := !wal.Exist(datadir.ToWALDir(m.options.Dir))
	if peers == nil {
		if grown {
			return plan{}, yr.E("start etcd", yr.ParamInvalid, "%s belongs to one of several masters, and no peer address is configured for it; set values.etcd.address", m.options.Dir)
		}
		return lonePlan(), nil
	}
	configured := len(peers.Voters) > 1
	switch {
	case fresh && (configured || peers.Join != nil):
		return m.enter(ctx, peers)
	case fresh && grown:
		return plan{}, yr.E("start etcd", yr.ParamInvalid, "this master was about to join others when it ended; start it again with --join, or move %s away", m.options.Dir)
	case configured || grown:
		p := severalPlan(peers, peers.name()+"="+peerURL(peers.Address), embed.ClusterStateFlagExisting)
		p.fresh = false
		return p, nil
	default:
		return lonePlan(), nil
	}
}

func lonePlan() plan {
	// A token of its own keeps clusters apart that began alone and meet later.
	return plan{name: loneName, cluster: loneName + "=" + lonePeer.String(), token: newClaim(), state: embed.ClusterStateFlagNew}
}

func severalPlan(p *Peers, cluster, state string) plan {
	return plan{several: true, fresh: true, name: p.name(), cluster: cluster, token: foundingToken, state: state}
}

// enter founds a cluster with the other voters, or joins the one they have.
func (m *Member) enter(ctx context.Context, peers *Peers) (plan, error) {
	founding := severalPlan(peers, peers.initialCluster(), embed.ClusterStateFlagNew)
	join := len(peers.Voters) < 2
	answers, errs := m.prober.askAll(ctx, peers.others())
	for i, a := range answers {
		if errs[i] != nil {
			continue
		}
		id, err := foundedID(founding.cluster)
		if err != nil {
			return plan{}, yr.Wrap("masters", yr.ParamInvalid, err)
		}
		if a.cluster != id {
			join = true // they have a cluster that was not founded by this configuration
		} else if started(a.members, peers.Address) {
			return plan{}, yr.E("start etcd", yr.DiskFailed,
				"the other masters know %s (%s), but %s is empty; remove the old one from the cluster and let this one join, or restore the directory",
				peers.name(), peers.Address, m.options.Dir)
		}
	}
	if !join {
		return founding, m.markGrown()
	}
	if peers.Join == nil {
		return plan{}, &yr.Error{Op: "start etcd", Code: yr.ParamInvalid, Err: ErrOtherCluster,
			Msg: "the configured masters have a cluster already; let this one join it (yr start --master --join)"}
	}
	cluster, err := m.admission(ctx, peers)
	if err != nil {
		return plan{}, yr.Wrap("join the masters", yr.Communication, err)
	}
	return severalPlan(peers, cluster, embed.ClusterStateFlagExisting), m.markGrown()
}

// admissionPatience bounds how long the members may disagree about who they are.
const admissionPatience = 30 * time.Second

// admission asks to be let in until all members that answer know all others:
// etcd asks one of them, and a learner that has just started knows nothing yet.
func (m *Member) admission(ctx context.Context, peers *Peers) (cluster string, err error) {
	ctx, cancel := context.WithTimeout(ctx, admissionPatience)
	defer cancel()
	for {
		cluster, err = peers.Join(ctx, peers.name(), peers.Address)
		if err != nil {
			return "", err
		}
		err = m.agree(ctx, cluster)
		if err == nil {
			return cluster, nil
		}
		select {
		case <-time.After(settlePause):
		case <-ctx.Done():
			return "", err
		}
	}
}

func (m *Member) agree(ctx context.Context, cluster string) error {
	urls, err := types.NewURLsMap(cluster)
	if err != nil {
		return err
	}
	var others []Voter
	for name := range urls {
		if name != m.options.Peers.name() {
			others = append(others, Voter{name, strings.TrimPrefix(urls[name].String(), "https://")})
		}
	}
	answers, errs := m.prober.askAll(ctx, others)
	heard := false
	for i, a := range answers {
		if errs[i] != nil {
			continue
		}
		heard = true
		if len(a.members) != len(urls) {
			return yr.E("join the masters", yr.Communication, "%s knows %d masters and not yet %d", describe(others[i:i+1]), len(a.members), len(urls))
		}
	}
	if !heard {
		return yr.E("join the masters", yr.Communication, "%s cannot be reached: %v", describe(others), errors.Join(errs...))
	}
	return nil
}

// foundedID is the id of the cluster that these voters found together.
func foundedID(cluster string) (string, error) {
	urls, err := types.NewURLsMap(cluster)
	if err != nil {
		return "", err
	}
	c, err := membership.NewClusterFromURLsMap(nil, foundingToken, urls)
	if err != nil {
		return "", err
	}
	return c.ID().String(), nil
}

// started reports whether the member at address has ever run. Its client URLs tell:
// founders know each other's names beforehand.
func started(members []membership.Member, address string) bool {
	for i := range members {
		for _, u := range members[i].PeerURLs {
			if u == peerURL(address) && len(members[i].ClientURLs) > 0 {
				return true
			}
		}
	}
	return false
}

// checkCluster compares clusters with configured masters that this one does not
// know: two that have both founded one must never go on side by side.
func (e *engine) checkCluster(ctx context.Context) error {
	if !e.plan.several {
		return nil
	}
	known := map[string]bool{}
	for _, member := range e.members() {
		for _, u := range member.PeerURLs {
			known[strings.TrimPrefix(u, "https://")] = true
		}
	}
	var strangers []Voter
	for _, v := range e.member.options.Peers.others() {
		if !known[v.Address] {
			strangers = append(strangers, v)
		}
	}
	answers, errs := e.member.prober.askAll(ctx, strangers)
	for i, a := range answers {
		if errs[i] == nil && a.cluster != e.etcd.Server.Cluster().ID().String() {
			return &yr.Error{Op: "start etcd", Code: yr.ParamInvalid, Err: ErrOtherCluster,
				Msg: describe(strangers[i:i+1]) + " and this master have separate clusters; move the etcd directory of the one away that holds nothing, and let it join the other"}
		}
	}
	return nil
}

// grownFile marks the directory of a member that is, or is about to be, one of
// several. It is written first, so that a crash while growing leaves a master
// that listens for the others.
const grownFile = "grown"

func (m *Member) grown() (bool, error) {
	_, err := os.Stat(filepath.Join(m.options.Dir, grownFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, m.broken(err)
	}
	return true, nil
}

func (m *Member) markGrown() error {
	f, err := os.OpenFile(filepath.Join(m.options.Dir, grownFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return m.broken(err)
	}
	_, err = f.WriteString(m.options.Peers.Address + "\n")
	if err = errors.Join(err, f.Sync(), f.Close(), syncDir(m.options.Dir)); err != nil {
		return m.broken(err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
