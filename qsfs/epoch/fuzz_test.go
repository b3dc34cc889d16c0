package epoch

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sayAll has each backend answer with the same text, whatever is asked.
type sayAll []byte

func (s sayAll) Put(context.Context, string, []byte) (int, error) { return 4, nil }
func (s sayAll) Get(context.Context, string) (Answers, error) {
	return Answers{Values: [][]byte{s, s, s, s}}, nil
}

// A record counts only where it says that it belongs.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"schema":1,"epoch":3,"uuid":"u","host":"h","time":"2026-01-02T03:04:05Z","lease":30000000000}`))
	f.Add([]byte(`{"schema":1,"epoch":3,"uuid":"u","seq":9,"manifest":{"object":"qsfs/manifest","length":1,"checksum":"00"}}`))
	f.Add([]byte(`{"schema":2,"epoch":3,"uuid":"u"}`))
	f.Add([]byte(`{"schema":1,"epoch":4,"uuid":"u","seq":1}`))
	f.Add([]byte(`{"schema":1,"epoch":3,"uuid":"v","seq":1}`))
	f.Add([]byte(`{"schema":1,"epoch":3,"uuid":"u","time":"2026-01-02T03:04:05Z","released":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e := New(sayAll(text), "p", "here")
		if c, err := e.ClaimAt(t.Context(), 3); err == nil {
			require.EqualValues(t, 3, c.Epoch)
		}
		if h, err := e.HeadOf(t.Context(), 3, "u"); err == nil {
			require.EqualValues(t, 3, h.Epoch)
			require.Equal(t, "u", h.UUID)
			require.LessOrEqual(t, h.Schema, Schema)
		}
		of := &Claim{Epoch: 3, UUID: "u", Time: time.Unix(1, 0)}
		s, err := e.LastSign(t.Context(), of)
		require.NoError(t, err)
		require.True(t, s.Released || !s.Time.Before(of.Time), "the claim itself is a sign of life")
	})
}

func FuzzLoadIdentity(f *testing.F) {
	f.Add([]byte(`{"schema":1,"uuid":"0123456789abcdef0123456789abcdef","epoch":1,"lease":30000000000}`))
	f.Add([]byte(`{"schema":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "identity")
		require.NoError(t, os.WriteFile(path, text, 0o600))
		id, err := LoadIdentity(path)
		if err != nil {
			return
		}
		require.NoError(t, id.Save(path))
		again, err := LoadIdentity(path)
		require.NoError(t, err)
		require.Equal(t, id, again)
	})
}
