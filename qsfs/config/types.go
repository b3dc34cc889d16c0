package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/threefoldtech/quantumd/backend"
)

// Secret is text that never shows; see [backend.Secret].
type Secret = backend.Secret

// Size is a number of bytes. In YAML: a whole number with an optional suffix
// K, M, G or T in powers of 1024, optionally followed by B or iB, in any case.
type Size int64

// Powers of 1024.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// ParseSize reads a Size as the configuration writes it. Fractions, signs and
// numbers beyond 2^63-1 are errors.
func ParseSize(s string) (Size, error) {
	text := strings.ToUpper(strings.TrimSpace(s))
	text = strings.TrimSuffix(text, "B")
	text = strings.TrimSuffix(text, "I")
	unit := Size(1)
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'K':
			unit, text = KiB, text[:n-1]
		case 'M':
			unit, text = MiB, text[:n-1]
		case 'G':
			unit, text = GiB, text[:n-1]
		case 'T':
			unit, text = TiB, text[:n-1]
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 63)
	if err != nil {
		if errors.Is(err, strconv.ErrRange) {
			return 0, tooLarge(s)
		}
		return 0, &valueError{shown(s) + " is not a size", "write a whole number with K, M, G or T, such as 64M"}
	}
	if n > uint64(math.MaxInt64)/uint64(unit) {
		return 0, tooLarge(s)
	}
	return Size(n) * unit, nil
}

func tooLarge(s string) error {
	return &valueError{shown(s) + " is too large", "write a size below 8388608T"}
}

// valueError is a text that is not what it should be.
type valueError struct{ msg, remedy string }

func (e *valueError) Error() string { return e.msg + ": " + e.remedy }

// String gives the shortest exact form, such as 64M.
func (s Size) String() string {
	for _, u := range []struct {
		unit Size
		name string
	}{{TiB, "T"}, {GiB, "G"}, {MiB, "M"}, {KiB, "K"}} {
		if s != 0 && s%u.unit == 0 {
			return strconv.FormatInt(int64(s/u.unit), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalText reads what [ParseSize] reads.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	if err == nil {
		*s = v
	}
	return err
}

// MarshalText writes what [Size.String] gives.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Duration is a span of time. In YAML: as Go writes it (90s, 15m, 1h30m), or
// with the suffix d for days of 24 hours. A bare number is an error, for the
// reader cannot know its unit.
type Duration time.Duration

// ParseDuration reads a Duration as the configuration writes it.
func ParseDuration(s string) (Duration, error) {
	text := strings.TrimSpace(s)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, &valueError{shown(s) + " is not a duration", "write days as a whole number up to 65535, such as 7d"}
		}
		return Duration(time.Duration(n) * 24 * time.Hour), nil
	}
	if _, err := strconv.ParseInt(text, 10, 64); err == nil && text != "0" {
		return 0, &valueError{shown(s) + " has no unit", fmt.Sprintf("write %ss for seconds or %sm for minutes", text, text)}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, &valueError{shown(s) + " is not a duration", "write 90s, 15m or 1h30m"}
	}
	if d < 0 {
		return 0, &valueError{shown(s) + " is negative", "write a duration of zero or more"}
	}
	return Duration(d), nil
}

// Std gives the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String gives the shortest form that ParseDuration reads back.
func (d Duration) String() string {
	const day = 24 * time.Hour
	std := time.Duration(d)
	if std != 0 && std%day == 0 {
		return strconv.FormatInt(int64(std/day), 10) + "d"
	}
	text := std.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// UnmarshalText reads what [ParseDuration] reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err == nil {
		*d = v
	}
	return err
}

// MarshalText writes what [Duration.String] gives.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
