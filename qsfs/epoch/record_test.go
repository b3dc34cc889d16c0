package epoch

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/threefoldtech/quantumd/qsfs/manifest"
)

// What is on the backends is read by every later version: the text stays.
func TestRecordsStay(t *testing.T) {
	t.Parallel()
	at := time.Unix(1, 5).UTC()
	for want, record := range map[string]any{
		`{"schema":1,"epoch":2,"uuid":"u","host":"h","time":"1970-01-01T00:00:01.000000005Z","lease":1000000000}`:                                  Claim{1, 2, "u", "h", at, time.Second},
		`{"schema":1,"epoch":2,"uuid":"u","time":"1970-01-01T00:00:01.000000005Z","released":true}`:                                                Sign{1, 2, "u", at, true},
		`{"schema":1,"epoch":2,"uuid":"u","seq":3,"created":"1970-01-01T00:00:01.000000005Z","manifest":{"object":"o","length":4,"checksum":"c"}}`: Head{1, 2, "u", 3, at, manifest.Ref{Object: "o", Length: 4, Checksum: "c"}},
		`{"schema":1,"uuid":"u","epoch":2,"lease":1000000000,"parent_uuid":"p","parent_epoch":1}`:                                                  Identity{1, "u", 2, time.Second, "p", 1},
	} {
		text, err := json.Marshal(record)
		require.NoError(t, err)
		assert.Equal(t, want, string(text))
	}
	e := newTestEpochs(&fourBackends{})
	assert.Equal(t, []string{"/p/qsfs/epoch/2", "/p/qsfs/head/2/u", "/p/qsfs/alive/2/u"}, []string{e.ClaimKey(2), e.HeadKey(2, "u"), e.SignKey(2, "u")})
}
