package gridtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/tfgrid-sdk-go/grid-proxy/pkg/types"
	"github.com/threefoldtech/zosbase/pkg/gridtypes"
)

func (g *Grid) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /chain/{method}", g.serveChain)
	m.HandleFunc("POST /rmb", g.serveRMB)
	proxy := func(pattern string, f func(*http.Request) (any, http.Header, error)) {
		m.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) { g.serveProxy(w, r, f) })
	}
	proxy("/ping", func(*http.Request) (any, http.Header, error) { return map[string]string{"ping": "pong"}, nil, nil })
	proxy("/nodes", g.listNodes)
	proxy("/nodes/{id}", g.oneNode)
	proxy("/farms", g.listFarms)
	proxy("/contracts", g.listContracts)
	proxy("/stats", g.stats)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		wait, changed := g.latency, g.changed
		g.mu.Unlock()
		if !g.pause(r, wait, changed) {
			return
		}
		m.ServeHTTP(w, r)
	})
}

// pause is false where nobody waits for the answer any more.
func (g *Grid) pause(r *http.Request, d time.Duration, changed chan struct{}) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-changed:
		return true
	case <-g.done:
	case <-r.Context().Done():
	}
	return false
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // nobody may wait for it any more
}

// told calls the watcher, without the lock.
func (g *Grid) told(e Event) {
	g.mu.Lock()
	g.calls[e.Call]++
	f := g.watch
	g.mu.Unlock()
	if f != nil {
		f(e)
	}
}

func (g *Grid) serveChain(w http.ResponseWriter, r *http.Request) {
	var in chainCall
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
		reply(w, http.StatusBadRequest, refused("%v", err))
		return
	}
	g.mu.Lock()
	out := g.call(r.PathValue("method"), in)
	g.mu.Unlock()
	g.told(Event{Call: r.PathValue("method")})
	reply(w, http.StatusOK, out)
}

type (
	question struct {
		From uint32          `json:"from"`
		To   uint32          `json:"to"` // a node's twin
		Fn   string          `json:"fn"`
		Data json.RawMessage `json:"data"`
	}
	answer struct {
		Error  string          `json:"error,omitempty"`
		Silent bool            `json:"silent,omitempty"` // there is no answer: who asks waits until it gives up
		Result json.RawMessage `json:"result,omitempty"`
	}
)

func (g *Grid) serveRMB(w http.ResponseWriter, r *http.Request) {
	var q question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&q); err != nil {
		reply(w, http.StatusBadRequest, answer{Error: err.Error()})
		return
	}
	id := q.To - nodeTwins
	g.mu.Lock()
	hangs := g.nodes[id] != nil && g.nodes[id].Hangs
	g.mu.Unlock()
	if hangs {
		g.told(Event{Call: q.Fn, Node: id})
		select {
		case <-r.Context().Done():
		case <-g.done:
		}
		return
	}
	g.mu.Lock()
	v, err := g.ask(q.From, id, q.Fn, q.Data)
	out := answer{}
	switch {
	case errors.Is(err, errSilent):
		out.Silent = true
	case err != nil:
		out.Error = err.Error()
	default:
		out.Result, err = json.Marshal(v)
		if err != nil {
			out.Error = err.Error()
		}
	}
	g.mu.Unlock()
	g.told(Event{Call: q.Fn, Node: id})
	reply(w, http.StatusOK, out)
}

func (g *Grid) serveProxy(w http.ResponseWriter, r *http.Request, f func(*http.Request) (any, http.Header, error)) {
	g.mu.Lock()
	code := 0
	if g.faults.proxy > 0 {
		g.faults.proxy--
		code = g.faults.proxyCode
	}
	g.mu.Unlock()
	g.told(Event{Call: r.URL.Path})
	if code != 0 {
		reply(w, code, map[string]string{"error": http.StatusText(code)})
		return
	}
	g.mu.Lock()
	v, header, err := f(r)
	g.mu.Unlock()
	var not *missing
	switch {
	case errors.As(err, &not):
		reply(w, http.StatusNotFound, map[string]string{"error": err.Error()})
	case err != nil:
		reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
	default:
		maps.Copy(w.Header(), header)
		reply(w, http.StatusOK, v)
	}
}

type missing struct{ what string }

func (m *missing) Error() string { return m.what + " not found" }

// query reads a request's parameters and, unlike the real proxy, refuses those that
// it does not know: a test would not notice.
type query struct {
	url.Values
	known []string
}

func (q *query) list(key string) []string { // joined by commas, or repeated
	q.known = append(q.known, key)
	var out []string
	for _, v := range q.Values[key] {
		if v != "" {
			out = append(out, strings.Split(v, ",")...)
		}
	}
	return out
}

func (q *query) numbers(key string) ([]uint64, error) {
	var out []uint64
	for _, v := range q.list(key) {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out = append(out, n)
	}
	return out, nil
}

func (q *query) number(key string, other uint64) (uint64, error) {
	n, err := q.numbers(key)
	if err != nil || len(n) == 0 {
		return other, err
	}
	return n[0], nil
}

func (q *query) rest() error {
	for k := range q.Values {
		if !slices.Contains(q.known, k) {
			return fmt.Errorf("gridtest: the proxy's double does not know parameter %q", k)
		}
	}
	return nil
}

// paged cuts a page out of a list, of 50 unless the request says otherwise, and
// counts it where that is asked for.
func paged[T any](q *query, all []T) ([]T, http.Header, error) {
	size, err1 := q.number("size", 50)
	page, err2 := q.number("page", 1)
	count := q.list("ret_count")
	q.list("sort_by") // by id, always
	q.list("sort_order")
	q.list("randomize")
	if err := errors.Join(err1, err2, q.rest()); err != nil {
		return nil, nil, err
	}
	if size == 0 || page == 0 {
		return nil, nil, errors.New("size and page begin with 1")
	}
	header := http.Header{}
	if slices.Equal(count, []string{"true"}) {
		header.Set("Count", strconv.Itoa(len(all)))
	}
	n := uint64(len(all))
	from := min((page-1)*size, n)
	return append([]T{}, all[from:min(from+size, n)]...), header, nil
}

func (g *Grid) listNodes(r *http.Request) (any, http.Header, error) {
	q := &query{Values: r.URL.Query()}
	farms, err1 := q.numbers("farm_ids")
	ids, err2 := q.numbers("node_ids")
	excluded, err3 := q.numbers("excluded")
	free, err4 := q.number("free_hru", 0)
	twin, err5 := q.number("available_for", 0)
	status, healthy, features, certification := q.list("status"), q.list("healthy"), q.list("features"), q.list("certification_type")
	if err := errors.Join(err1, err2, err3, err4, err5, types.NodeFilter{Features: features}.Validate()); err != nil {
		return nil, nil, err
	}
	var all []types.Node
	for _, id := range slices.Sorted(maps.Keys(g.nodes)) {
		n := g.nodes[id].listed()
		if len(farms) > 0 && !slices.Contains(farms, uint64(n.FarmID)) || //nolint:gosec // small
			len(ids) > 0 && !slices.Contains(ids, uint64(id)) || slices.Contains(excluded, uint64(id)) ||
			uint64(n.TotalResources.HRU-n.UsedResources.HRU) < free ||
			twin != 0 && !(n.RentedByTwinID == uint(twin) || !n.Rented && !n.Dedicated) ||
			len(status) > 0 && !slices.Contains(status, n.Status) ||
			len(healthy) > 0 && healthy[0] != fmt.Sprint(n.Healthy) ||
			len(certification) > 0 && certification[0] != n.CertificationType ||
			slices.ContainsFunc(features, func(f string) bool { return !slices.Contains(n.Features, f) }) {
			continue
		}
		all = append(all, n)
	}
	list, header, err := paged(q, all)
	return list, header, err
}

// listed is a node as the proxy lists it.
func (n *node) listed() types.Node {
	out := types.Node{
		ID: fmt.Sprintf("node-%d", n.ID), NodeID: int(n.ID), FarmID: int(n.Farm), FarmName: fmt.Sprintf("farm%d", n.Farm), TwinID: int(n.ID + nodeTwins), //nolint:gosec // small
		Country: n.Country, Location: types.Location{Country: n.Country}, Status: "up", Healthy: !n.Unhealthy, CertificationType: "Diy",
		TotalResources: types.Capacity{CRU: 8, MRU: 32 << 30, SRU: 512 << 30, HRU: gridtypes.Unit(n.HDD)}, //nolint:gosec // positive
		UsedResources:  types.Capacity{HRU: gridtypes.Unit(n.used())},                                     //nolint:gosec // positive
		Dedicated:      n.Dedicated, Rented: n.RentedBy != 0, RentedByTwinID: uint(n.RentedBy), Features: n.Features,
	}
	if n.Offline {
		out.Status = "down"
	}
	if n.Certified {
		out.CertificationType = "Certified"
	}
	if out.Features == nil {
		out.Features = types.Zos3NodesFeatures
	}
	return out
}

func (g *Grid) oneNode(r *http.Request) (any, http.Header, error) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 32)
	if err != nil {
		return nil, nil, err
	}
	x := g.nodes[uint32(id)]
	if x == nil {
		return nil, nil, &missing{"node"}
	}
	n := x.listed()
	return types.NodeWithNestedCapacity{ID: n.ID, NodeID: n.NodeID, FarmID: n.FarmID, FarmName: n.FarmName, TwinID: n.TwinID, Country: n.Country, Location: n.Location,
		Capacity: types.CapacityResult{Total: n.TotalResources, Used: n.UsedResources}, Status: n.Status, Healthy: n.Healthy, CertificationType: n.CertificationType,
		Dedicated: n.Dedicated, Rented: n.Rented, RentedByTwinID: n.RentedByTwinID, Features: n.Features}, nil, nil
}

func (g *Grid) listFarms(r *http.Request) (any, http.Header, error) {
	q := &query{Values: r.URL.Query()}
	only, err := q.numbers("farm_id")
	if err != nil {
		return nil, nil, err
	}
	farms := map[uint64]bool{}
	for _, n := range g.nodes {
		if len(only) == 0 || slices.Contains(only, n.Farm) {
			farms[n.Farm] = true
		}
	}
	var all []types.Farm
	for _, id := range slices.Sorted(maps.Keys(farms)) {
		all = append(all, types.Farm{Name: fmt.Sprintf("farm%d", id), FarmID: int(id), TwinID: 1, PricingPolicyID: 1, CertificationType: "NotCertified"}) //nolint:gosec // small
	}
	list, header, err := paged(q, all)
	return list, header, err
}

// listContracts lists what the index has: that may be less than the chain.
func (g *Grid) listContracts(r *http.Request) (any, http.Header, error) {
	q := &query{Values: r.URL.Query()}
	twins, err1 := q.numbers("twin_id")
	nodes, err2 := q.numbers("node_id")
	kinds, states := q.list("type"), q.list("state")
	if err := errors.Join(err1, err2); err != nil {
		return nil, nil, err
	}
	index := g.index
	if !g.lags {
		index = g.chain.list()
	}
	var all []types.RawContract
	for _, k := range index {
		if len(twins) > 0 && !slices.Contains(twins, uint64(k.Twin)) || len(nodes) > 0 && !slices.Contains(nodes, uint64(k.Node)) ||
			len(kinds) > 0 && !slices.Contains(kinds, k.Kind) || len(states) > 0 && !slices.Contains(states, k.State) {
			continue
		}
		details, err := json.Marshal(detailsOf(k, g.nodes[k.Node]))
		if err != nil {
			return nil, nil, err
		}
		all = append(all, types.RawContract{ContractID: uint(k.ID), TwinID: uint(k.Twin), State: k.State, CreatedAt: uint(k.Created.Unix()), Type: k.Kind, Details: details}) //nolint:gosec // positive
	}
	list, header, err := paged(q, all)
	return list, header, err
}

func detailsOf(k Contract, n *node) any {
	switch k.Kind {
	case nameKind:
		return types.NameContractDetails{Name: k.Name}
	case rentKind:
		return types.RentContractDetails{NodeID: uint(k.Node)}
	case nodeKind:
		d := types.NodeContractDetails{NodeID: uint(k.Node), DeploymentData: k.Data, DeploymentHash: k.Hash}
		if n != nil {
			d.FarmId = n.Farm
			d.FarmName = fmt.Sprintf("farm%d", n.Farm)
		}
		return d
	}
	return map[string]string{"kind": k.Kind}
}

func (g *Grid) stats(*http.Request) (any, http.Header, error) {
	farms := map[uint64]bool{}
	for _, n := range g.nodes {
		farms[n.Farm] = true
	}
	return types.Stats{Nodes: int64(len(g.nodes)), Farms: int64(len(farms)), Contracts: int64(len(g.chain.contracts))}, nil, nil
}
