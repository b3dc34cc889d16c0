package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cosmos/go-bip39"
	"github.com/rs/zerolog"
	zlog "github.com/rs/zerolog/log"

	"github.com/threefoldtech/quantumd/backend"
	"github.com/threefoldtech/quantumd/backend/grid"
	"github.com/threefoldtech/quantumd/backend/grid/sdkprocess"
)

const rmbTime = time.Minute

// Open connects to chain, relay and proxy of a network. What the SDK does beside is
// contained; but it writes to the process's environment and to zerolog's logger,
// which are everybody's.
func Open(ctx context.Context, o sdkprocess.Options) (grid.Client, error) {
	phrase, err := Mnemonic(o.Mnemonic)
	if err != nil {
		return nil, err
	}
	if err := CheckNetwork(o.Network); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	hidden := newSecrets(o.Mnemonic, phrase)
	type opened struct {
		p   PluginClient
		err error
	}
	done := make(chan opened, 1)
	go func() { // it knows of no context, and takes minutes at worst
		p, err := construct(phrase, options(o), o.Logger, hidden)
		done <- opened{p, err}
	}()
	select {
	case x := <-done:
		if x.err != nil {
			return nil, explain(ctx, x.err, grid.ErrNetwork, hidden)
		}
		return New(Parts{Plugin: &x.p, ProxyURLs: proxies(o), Mnemonic: phrase, Close: x.p.Close, Logger: o.Logger}), nil
	case <-ctx.Done():
		go func() {
			if x := <-done; x.err == nil {
				x.p.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// Mnemonic checks a mnemonic without asking anybody, and gives it with one space
// between its words.
func Mnemonic(s backend.Secret) (backend.Secret, error) {
	phrase := strings.Join(strings.Fields(s.Reveal()), " ")
	if phrase == "" {
		return "", problem(grid.ErrMnemonic, "there is none")
	}
	n := len(strings.Fields(phrase))
	if !bip39.IsMnemonicValid(phrase) {
		return "", problem(grid.ErrMnemonic, fmt.Sprintf("its %d words are no BIP-39 mnemonic", n))
	}
	if _, err := bip39.MnemonicToByteArray(phrase); err != nil { // the error may have words in it
		return "", problem(grid.ErrMnemonic, fmt.Sprintf("one of its %d words is another one, or in another place: the checksum is wrong", n))
	}
	return backend.Secret(phrase), nil
}

// CheckNetwork says whether there is a network of this name.
func CheckNetwork(name string) error {
	if _, ok := SubstrateURLs[name]; !ok {
		return problem(grid.ErrNetwork, fmt.Sprintf("there is no network %q", name))
	}
	return nil
}

func proxies(o sdkprocess.Options) []string {
	if o.ProxyURL != "" {
		return []string{o.ProxyURL}
	}
	return slices.Clone(ProxyURLs[o.Network])
}

// options leave the relay out unless somebody wants one: the SDK writes to the chain
// which relays an account has, for all programs that use it.
func options(o sdkprocess.Options) []PluginOpt {
	wait := o.RMBTimeout
	if wait <= 0 {
		wait = rmbTime
	}
	out := []PluginOpt{WithNetwork(o.Network), WithRMBTimeout(int((wait + time.Second - 1) / time.Second)), WithNoColorLogs()}
	if o.RelayURL != "" {
		out = append(out, WithRelayURL(o.RelayURL))
	}
	if o.ProxyURL != "" {
		out = append(out, WithProxyURL(o.ProxyURL))
	}
	if len(o.SubstrateURLs) > 0 {
		out = append(out, WithSubstrateURL(o.SubstrateURLs...))
	}
	return out
}

var constructing sync.Mutex // what it changes is the process's

// construct makes the SDK's client, with its telemetry off, and puts back what it
// changes: the standard log's writer, zerolog's logger.
func construct(phrase backend.Secret, opts []PluginOpt, to *slog.Logger, hidden *secrets) (PluginClient, error) {
	constructing.Lock()
	defer constructing.Unlock()
	for k := range SentryDSN {
		SentryDSN[k] = ""
	}
	if err := os.Unsetenv("SENTRY_DSN"); err != nil { // read where none is given
		return PluginClient{}, err
	}
	writer := log.Writer()
	defer func() {
		log.SetOutput(writer)
		zlog.Logger = zerolog.New(&lines{to, hidden}).Level(zerolog.InfoLevel)
	}()
	return NewPluginClient(phrase.Reveal(), opts...)
}

// lines are zerolog's, one JSON object each.
type lines struct {
	to     *slog.Logger
	hidden *secrets
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(text []byte) (int, error) {
	clean := l.hidden.scrub(string(text))
	var fields map[string]any
	if err := json.Unmarshal([]byte(clean), &fields); err != nil {
		l.to.Info("sdk", "line", strings.TrimSpace(clean))
		return len(text), nil
	}
	level := slog.LevelDebug // what it tells in passing
	switch fields[zerolog.LevelFieldName] {
	case zerolog.LevelWarnValue:
		level = slog.LevelInfo
	case zerolog.LevelErrorValue, zerolog.LevelFatalValue, zerolog.LevelPanicValue:
		level = slog.LevelWarn
	}
	msg := fmt.Sprint(fields[zerolog.MessageFieldName])
	attrs := []any{"from", "tfgrid-sdk-go"}
	for k, v := range fields {
		if k != zerolog.LevelFieldName && k != zerolog.MessageFieldName && k != zerolog.TimestampFieldName {
			attrs = append(attrs, k, v)
		}
	}
	l.to.Log(context.Background(), level, msg, attrs...)
	return len(text), nil
}
