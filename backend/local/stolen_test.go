package local

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// stolen is a launcher that finds the port taken, so often.
type stolen struct {
	Launcher
	times int
	asked []Instance
}

var errStolen = errors.New("address already in use")

func (s *stolen) start(ctx context.Context, i Instance) error {
	s.asked = append(s.asked, i)
	if s.times > 0 {
		s.times--
		return &PortError{Address: i.Address, Err: errStolen}
	}
	return s.Launcher.start(ctx, i)
}

// Between the choice of a port and its use somebody may take it: a new backend
// finds another one. One that has an address keeps it, whatever it costs.
func TestStolenPort(t *testing.T) {
	t.Parallel()
	l := &stolen{Launcher: InProcess(nil), times: 2}
	p := open(t, t.TempDir(), l)
	made := provision(t, p, specs()[0])
	require.Len(t, l.asked, 3)
	require.NotEqual(t, l.asked[0].Address, l.asked[1].Address)
	require.Equal(t, l.asked[2].Address, made[0].Address)

	require.NoError(t, p.Stop(t.Context()))
	l.times, l.asked = 1, nil
	results, err := p.Provision(t.Context(), specs()[:1])
	require.NoError(t, err)
	require.ErrorIs(t, results[0].Err, errStolen)
	require.Len(t, l.asked, 1)
	require.Equal(t, made[0].Address, l.asked[0].Address)
}
