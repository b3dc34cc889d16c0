package gridtest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid/internal/sdk"
	"github.com/threefoldtech/quantumd/engine/zdb/server"
)

const zdbType = "zdb"

// node is a Zero-OS machine with one zdb, which has a namespace for each workload.
type node struct {
	Node
	dir         string
	deployments map[uint64]*deployment
	stopped     bool
	zdb         *server.Server
	listener    *listener
	address     netip.AddrPort // once there is a zdb
}

type deployment struct {
	sdk.Deployment
	used    int64
	pending int
}

// listener forgets no connection, so that an outage ends them.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	ended chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.conns = append(l.conns, c)
		l.mu.Unlock()
	}
	return c, err
}

func (l *listener) end() {
	_ = l.Close() // a second time says nothing new
	<-l.ended
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
}

func (n *node) run() error {
	var err error
	if n.zdb == nil {
		n.zdb, err = server.Open(context.Background(), server.Options{DataDir: filepath.Join(n.dir, "data"), IndexDir: filepath.Join(n.dir, "index"),
			AdminPassword: "gridtest", Protect: true})
		if err != nil {
			return err
		}
	}
	if n.listener != nil || n.stopped {
		return nil
	}
	at := "127.0.0.1:0"
	if n.address.IsValid() {
		at = n.address.String()
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	n.address = l.Addr().(*net.TCPAddr).AddrPort()
	n.listener = &listener{Listener: l, ended: make(chan struct{})}
	go func(l *listener) {
		defer close(l.ended)
		_ = n.zdb.Serve(context.Background(), l) // until it is closed
	}(n.listener)
	return nil
}

func (n *node) stop() {
	n.stopped = true
	if n.listener != nil {
		n.listener.end()
		n.listener = nil
	}
}

func (n *node) restart() error {
	n.stopped = false
	if n.zdb == nil {
		return nil
	}
	return n.run()
}

func (n *node) close() error {
	n.stop()
	if n.zdb == nil {
		return nil
	}
	return n.zdb.Close()
}

// remove is what a node does when a contract ends.
func (n *node) remove(contract uint64) error {
	d := n.deployments[contract]
	if d == nil {
		return nil
	}
	delete(n.deployments, contract)
	var all []error
	for _, w := range d.Workloads {
		if n.zdb != nil && w.Result.State == "ok" {
			all = append(all, n.zdb.DeleteNamespace(context.Background(), namespace(d.TwinID, contract, w.Name)))
		}
	}
	return errors.Join(all...)
}

func namespace(twin uint32, contract uint64, name string) string {
	return fmt.Sprintf("%d-%d-%s", twin, contract, name)
}

func (n *node) used() int64 {
	var sum int64
	for _, d := range n.deployments {
		sum += d.used
	}
	return sum
}

// deploy makes what a deployment has. Its workloads' states tell how it went.
func (n *node) deploy(d sdk.Deployment) {
	out := &deployment{Deployment: d, pending: n.Pending}
	n.deployments[d.ContractID] = out
	for i := range out.Workloads {
		w := &out.Workloads[i]
		size, result, err := n.provision(d, w)
		w.Result = sdk.Result{Created: time.Now().Unix(), State: "ok"}
		if err != nil {
			w.Result.State, w.Result.Error, w.Result.Data = "error", err.Error(), json.RawMessage("null")
			continue
		}
		out.used += size
		w.Result.Data, _ = json.Marshal(result) // strings and numbers
	}
}

func (n *node) provision(d sdk.Deployment, w *sdk.Workload) (int64, sdk.ZDBResult, error) {
	var none sdk.ZDBResult
	if n.Fails != "" {
		return 0, none, errors.New(n.Fails)
	}
	if w.Type != zdbType {
		return 0, none, fmt.Errorf("gridtest: no workload of type %q", w.Type)
	}
	var z struct {
		Size     int64          `json:"size"`
		Mode     string         `json:"mode"`
		Password backend.Secret `json:"password"`
		Public   bool           `json:"public"`
	}
	if err := json.Unmarshal(w.Data, &z); err != nil {
		return 0, none, err
	}
	if z.Size > or(n.Disk, n.HDD) || z.Size > n.HDD-n.used() {
		return 0, none, errors.New("couldn't allocate device to satisfy namespace size: no more free devices found")
	}
	mode := server.User
	if z.Mode == "seq" {
		mode = server.Sequential
	}
	if err := n.run(); err != nil {
		return 0, none, err
	}
	name := namespace(d.TwinID, d.ContractID, w.Name)
	if _, err := n.zdb.CreateNamespace(context.Background(), name, server.NamespaceOptions{Mode: mode, Password: z.Password, Public: z.Public, MaxSize: z.Size}); err != nil {
		return 0, none, err
	}
	addresses := n.Addresses
	if addresses == nil {
		addresses = []string{n.address.Addr().String()}
	}
	return z.Size, sdk.ZDBResult{Namespace: name, IPs: addresses, Port: uint(n.address.Port())}, nil
}

// errSilent: no answer, until who asks gives up.
var errSilent = errors.New("gridtest: no answer")

// ask is one question to a node over the relay; g.mu is held.
func (g *Grid) ask(from, node uint32, function string, data json.RawMessage) (any, error) {
	n := g.nodes[node]
	if n == nil || n.stopped || g.faults.down {
		return nil, errSilent
	}
	var which struct {
		Contract uint64 `json:"contract_id"`
	}
	switch function {
	case "zos.deployment.deploy":
		var d sdk.Deployment
		if err := json.Unmarshal(data, &d); err != nil {
			return nil, err
		}
		return nil, g.accept(n, from, d)
	case "zos.deployment.list":
		out := []sdk.Deployment{}
		for _, d := range n.deployments {
			if d.TwinID == from {
				out = append(out, n.shown(d))
			}
		}
		return out, nil
	case "zos.deployment.changes", "zos.deployment.get":
		if err := json.Unmarshal(data, &which); err != nil {
			return nil, err
		}
		d := n.deployments[which.Contract]
		if d == nil || d.TwinID != from {
			return nil, errors.New("deployment not found")
		}
		if function == "zos.deployment.get" {
			return n.shown(d), nil
		}
		if d.pending > 0 {
			d.pending--
			return []sdk.Workload{}, nil
		}
		return d.Workloads, nil
	case "zos.statistics.get":
		total, used := map[string]int64{"hru": n.HDD}, map[string]int64{"hru": n.used()}
		return map[string]any{"total": total, "used": used, "system": map[string]int64{}, "users": map[string]int{}}, nil
	case "zos.system.version":
		return map[string]string{"zos": "gridtest", "zinit": "gridtest"}, nil
	}
	return nil, fmt.Errorf("gridtest: function %s not found", function)
}

// shown is a deployment as a node tells of it.
func (n *node) shown(d *deployment) sdk.Deployment {
	out := d.Deployment
	out.Workloads = append([]sdk.Workload(nil), d.Workloads...)
	for i := range out.Workloads {
		r := &out.Workloads[i].Result
		switch {
		case n.Broken != "":
			*r = sdk.Result{State: "error", Error: n.Broken, Data: json.RawMessage("null")}
		case n.Paused:
			r.State = "paused"
		}
	}
	return out
}

// accept checks a deployment against the chain, as nodes do.
func (g *Grid) accept(n *node, from uint32, d sdk.Deployment) error {
	if n.Refuses != "" {
		return errors.New(n.Refuses)
	}
	k := g.chain.contracts[d.ContractID]
	hash, err := d.ChallengeHash()
	switch {
	case err != nil:
		return err
	case k == nil || k.State != Created:
		return fmt.Errorf("contract %d is not on the chain", d.ContractID)
	case k.Node != n.ID:
		return errors.New("contract is of another node")
	case k.Twin != from || d.TwinID != from:
		return errors.New("contract is of another twin")
	case k.Hash != hex.EncodeToString(hash):
		return errors.New("contract hash does not match the deployment")
	case n.deployments[d.ContractID] != nil:
		return errors.New("exists: deployment with this contract")
	}
	n.deploy(d)
	return nil
}

// Plant makes a contract with its zdb as if somebody had deployed it before.
func (g *Grid) Plant(node uint32, name, project string, role backend.Role, size int64, password backend.Secret) (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[node]
	mode := "seq"
	if role == backend.Meta {
		mode = "user"
	}
	data, err := json.Marshal(map[string]any{"size": size, "mode": mode, "password": password.Reveal(), "public": false})
	if err != nil {
		return 0, err
	}
	k := g.chain.add(Contract{Twin: Twin, Node: node, Kind: nodeKind, Data: dataOf(name, project)})
	d := sdk.Deployment{TwinID: Twin, ContractID: k.ID, Metadata: k.Data, Workloads: []sdk.Workload{{Name: name, Type: zdbType, Data: data}}}
	hash, err := d.ChallengeHash()
	if err != nil {
		return 0, err
	}
	k.Hash = hex.EncodeToString(hash)
	n.deploy(d)
	if r := n.deployments[k.ID].Workloads[0].Result; r.State != "ok" {
		return 0, errors.New(r.Error)
	}
	return k.ID, nil
}

// Zdb tells where a contract's zdb is, and false where there is none.
func (g *Grid) Zdb(contract uint64) (at netip.AddrPort, ns string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.nodes {
		if d := n.deployments[contract]; d != nil && d.Workloads[0].Result.State == "ok" {
			return n.address, namespace(d.TwinID, contract, d.Workloads[0].Name), true
		}
	}
	return netip.AddrPort{}, "", false
}
