package qsfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// replaceNow has backends replaced, and waits until that is done.
func (r *replacer) replaceNow(ctx context.Context, ids []string) error {
	r.mu.Lock()
	for _, id := range ids {
		r.asked[id] = true
	}
	r.mu.Unlock()
	begun := time.Now().Add(-time.Second)
	for {
		changed := r.sys.changed.next()
		r.tell()
		rows, err := r.sys.store.Replacements(ctx, false, 1000)
		if err != nil {
			return err
		}
		if left := r.unfinished(rows, ids, begun); len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// unfinished are those of ids whose saga has not ended since begun.
func (r *replacer) unfinished(rows []store.Replacement, ids []string, begun time.Time) []string {
	done := map[string]bool{}
	for _, p := range rows {
		if ended(p.Step) && p.Changed.After(begun) {
			done[p.Backend] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return done[id] })
}

// NoBackendError says that a backend that was named is not in the set.
type NoBackendError struct {
	ID    string
	Known []string
}

func (e *NoBackendError) Error() string { return fmt.Sprintf("there is no backend %q in use", e.ID) }

// Hint names the remedy.
func (e *NoBackendError) Hint() string {
	return "those in use are " + strings.Join(e.Known, ", ") + " (`quantumd backends ls`)"
}

// Replace replaces the backends that are named, or all that do not work, and
// returns when what they held is on others and they are given back. The work
// goes on when ctx ends. With DryRun it only tells what would be done.
func (s *System) Replace(ctx context.Context, q client.ReplaceRequest) (*client.ReplaceReport, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	if err := s.fence.Fenced(); err != nil {
		return nil, err
	}
	if q.Failed {
		s.health.again(ctx)
	}
	ids, err := s.toReplace(q)
	if err != nil {
		return nil, err
	}
	report := &client.ReplaceReport{Schema: client.SchemaVersion, DryRun: q.DryRun, Replacements: []client.Replacement{}}
	if q.DryRun {
		report.Replacements, err = s.planReplace(ctx, ids)
		return report, err
	}
	begun := time.Now().Add(-time.Second)
	err = s.replacing.replaceNow(ctx, ids)
	rows, rowsErr := s.store.Replacements(context.WithoutCancel(ctx), false, 1000)
	for _, p := range rows {
		if slices.Contains(ids, p.Backend) && (!ended(p.Step) || p.Changed.After(begun)) {
			report.Replacements = append(report.Replacements, replacementOf(p))
		}
	}
	return report, errors.Join(err, rowsErr)
}

// toReplace resolves a request to ids.
func (s *System) toReplace(q client.ReplaceRequest) ([]string, error) {
	g := s.current()
	var ids []string
	for _, id := range q.Backends {
		if _, ok := g.Find(id); !ok {
			e := &NoBackendError{ID: id}
			for _, m := range g.Backends {
				e.Known = append(e.Known, m.ID)
			}
			return nil, e
		}
		ids = append(ids, id)
	}
	if q.Failed {
		losses, _, _ := s.health.lostNow()
		ids = append(ids, slices.Sorted(maps.Keys(losses))...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// planReplace tells what would take the place of each.
func (s *System) planReplace(ctx context.Context, ids []string) ([]client.Replacement, error) {
	out := []client.Replacement{}
	losses, _, _ := s.health.lostNow()
	taken := map[string]bool{}
	for _, id := range ids {
		b, _ := s.current().Find(id)
		p := client.Replacement{Backend: id, Role: string(b.Role), Step: client.ReplaceProvision, Reason: losses[id].reason}
		spec, err := s.successor(ctx, b, taken)
		if err != nil {
			p.Error = err.Error()
		}
		p.Successor = spec.ID
		taken[spec.ID] = true
		out = append(out, p)
	}
	return out, nil
}

func replacementOf(p store.Replacement) client.Replacement {
	return client.Replacement{ID: p.ID, Backend: p.Backend, Role: p.Role, Successor: p.Successor, Step: p.Step, Reason: p.Reason,
		Started: p.Started, Changed: p.Changed, Objects: p.Objects, Rebuilt: p.Rebuilt, Bytes: p.Bytes, Error: p.Error,
		NextTry: p.NextTry, Generation: int(p.Generation)}
}

// replacementStatus tells of sagas that are open, or ended within a day.
func (s *System) replacementStatus(ctx context.Context, st *client.Status) error {
	rows, err := s.store.Replacements(ctx, false, 100)
	if err != nil {
		return err
	}
	for _, p := range rows {
		if ended(p.Step) && time.Since(p.Changed) > 24*time.Hour {
			continue
		}
		st.Replacements = append(st.Replacements, replacementOf(p))
		if ended(p.Step) {
			continue
		}
		statusNote(st, "%s", s.replacementInWords(p))
	}
	if _, network, looked := s.health.lostNow(); looked && !network {
		statusNote(st, "most backends do not answer: this looks like the network of this machine, so nothing is replaced")
	}
	return nil
}

func (s *System) replacementInWords(p store.Replacement) string {
	text := ""
	switch p.Step {
	case client.ReplaceGrace:
		text = fmt.Sprintf("backend %s is lost (%s); it is replaced when it stays away for %s", p.Backend, p.Reason, s.settings().Replace.After)
	case client.ReplaceProvision:
		text = fmt.Sprintf("backend %s is being replaced: looking for another one", p.Backend)
	case client.ReplaceReload:
		text = fmt.Sprintf("backend %s is being replaced by %s", p.Backend, p.Successor)
	case client.ReplaceRebuild:
		text = fmt.Sprintf("what backend %s held is being rebuilt: %d of %d objects", p.Backend, p.Rebuilt, p.Objects)
	default:
		text = fmt.Sprintf("what backend %s held is rebuilt and being verified before it is given back", p.Backend)
	}
	if p.Error != "" {
		text += ": " + p.Error
	}
	return text
}

func (s *System) replaceRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/replace", answer(func(r *http.Request) (any, error) {
		var q client.ReplaceRequest
		if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&q); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		return s.Replace(r.Context(), q)
	}))
}
