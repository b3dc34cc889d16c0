package seal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	k := NewKey()
	for _, n := range []int{0, 1, 15, 16, 17, 1000} {
		plain := bytes.Repeat([]byte{7}, n)
		sealed := k.Seal(plain, []byte("name"))
		require.Len(t, sealed, n+Overhead)
		got, err := k.Open(sealed, []byte("name"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, got))
		_, err = k.Open(sealed, []byte("other"))
		require.ErrorIs(t, err, ErrOpen)
		_, err = NewKey().Open(sealed, []byte("name"))
		require.ErrorIs(t, err, ErrOpen)

		buf := make([]byte, n+Overhead+5)
		copy(buf[NonceSize:], plain)
		inPlace := k.SealInPlace(buf, n)
		require.Len(t, inPlace, n+Overhead)
		got, err = k.Open(inPlace, nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, got))
		for _, bit := range []int{0, NonceSize, len(inPlace) - 1} {
			bad := bytes.Clone(inPlace)
			bad[bit] ^= 1
			_, err := k.OpenInPlace(bad)
			require.ErrorIs(t, err, ErrOpen)
		}
		got, err = k.OpenInPlace(inPlace)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, got))
	}
	for n := range Overhead {
		_, err := k.Open(make([]byte, n), nil)
		require.ErrorIs(t, err, ErrOpen)
		_, err = k.OpenInPlace(make([]byte, n))
		require.ErrorIs(t, err, ErrOpen)
	}
}

func TestNoncesDiffer(t *testing.T) {
	t.Parallel()
	k := NewKey()
	seen := map[string]bool{}
	for range 100 {
		seen[string(k.Seal(nil, nil)[:NonceSize])] = true
	}
	require.Len(t, seen, 100)
}

func TestKeyNeverPrints(t *testing.T) {
	t.Parallel()
	k := Key{0xab, 0xcd}
	type holder struct {
		K Key
		P *Key
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "holder", holder{k, &k})
	js, err := json.Marshal(holder{k, &k})
	require.NoError(t, err)
	shown := []string{log.String(), string(js), fmt.Sprint(k), fmt.Sprint(holder{k, &k})}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q", "%o"} {
		shown = append(shown, fmt.Sprintf(verb, k), fmt.Sprintf(verb, holder{K: k}))
	}
	for _, s := range shown {
		for _, leak := range []string{"abcd", "ABCD", "171", "253", "ab cd"} {
			require.NotContains(t, s, leak)
		}
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	k := NewKey()
	again, err := ParseKey(k.Hex())
	require.NoError(t, err)
	require.Equal(t, k.Hex(), again.Hex())
	require.False(t, k.IsZero())
	for _, bad := range []string{"", "00", strings.Repeat("g", 64), strings.Repeat("0", 65)} {
		_, err := ParseKey(bad)
		require.Error(t, err)
		if len(bad) > 4 {
			require.NotContains(t, err.Error(), bad)
		}
	}
	upper, err := ParseKey(strings.ToUpper(k.Hex()))
	require.NoError(t, err)
	require.Equal(t, k.Hex(), hex.EncodeToString(upper[:]))
}

func FuzzOpen(f *testing.F) {
	k := Key{1}
	f.Add(k.Seal([]byte("x"), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := k.Open(b, nil)
		if err != nil {
			require.ErrorIs(t, err, ErrOpen)
		}
	})
}
