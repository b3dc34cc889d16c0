package qsfs

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/threefoldtech/quantumd/qsfs/client"
	"github.com/threefoldtech/quantumd/store"
)

// The kinds of events that people see in status, why and the dashboard.
const (
	eventBackend    = "backend"
	eventReplace    = "replace"
	eventScrub      = "scrub"
	eventDamage     = "damage"
	eventCheckpoint = "checkpoint"
	eventUpload     = "upload"
	eventHook       = "hook"
	eventLegacy     = "legacy"
	eventConfig     = "config"
)

// happened remembers something for people, and wakes those who watch. It never
// fails the work that it tells of.
func (s *System) happened(ctx context.Context, kind, subject, format string, args ...any) {
	err := s.store.AddEvent(context.WithoutCancel(ctx), store.Event{Kind: kind, Subject: subject, Message: fmt.Sprintf(format, args...)})
	if err != nil {
		s.log.Warn("an event could not be recorded", "kind", kind, "subject", subject, "err", err)
	}
	s.changed.tell()
}

// maxEvents bounds one listing.
const maxEvents = 10_000

// Events lists what happened, the newest first, at most limit; with a subject
// only what concerns it.
func (s *System) Events(ctx context.Context, subject string, limit int) (*client.EventList, error) {
	if err := s.serving(); err != nil {
		return nil, err
	}
	if limit <= 0 || limit > maxEvents {
		limit = maxEvents
	}
	rows, err := s.store.Events(ctx, subject, limit)
	if err != nil {
		return nil, err
	}
	out := &client.EventList{Schema: client.SchemaVersion, Events: make([]client.Event, len(rows))}
	for i, e := range rows {
		out.Events[i] = client.Event{ID: e.ID, Time: e.Time, Kind: e.Kind, Subject: e.Subject, Message: e.Message}
	}
	return out, nil
}

func (s *System) eventRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/events", answer(func(r *http.Request) (any, error) {
		limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
		if err != nil {
			limit = 100
		}
		return s.Events(r.Context(), r.URL.Query().Get("subject"), limit)
	}))
}
