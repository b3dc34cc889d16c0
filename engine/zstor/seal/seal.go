// Package seal encrypts as zstor does: AES-256-GCM with a random 12 byte nonce
// in front and the 16 byte tag behind.
//
//	sealed = nonce(12) || ciphertext || tag(16)
//
// [Key.Seal] and [Key.Open] work on small values; [Key.SealInPlace] and
// [Key.OpenInPlace] on buffers of any size without a copy. What is sealed with
// one key is limited to 2^32 messages, because nonces are random: callers count.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

// Sizes in bytes.
const (
	KeySize   = 32
	NonceSize = 12
	TagSize   = 16
	Overhead  = NonceSize + TagSize
	// MaxPlain is the longest plaintext that GCM allows for one nonce.
	MaxPlain = 1<<36 - 32
)

// ErrOpen says that a sealed value does not open: another key, or damage.
var ErrOpen = errors.New("seal: wrong key or damaged ciphertext")

// Key is an AES-256 key. It never prints: every verb of fmt, log/slog and the
// encoders of the standard library show `[hidden]`. Use Hex for the text.
type Key [KeySize]byte

const hidden = "[hidden]"

// NewKey draws a random key.
func NewKey() Key {
	var k Key
	_, _ = rand.Read(k[:]) // never fails: crypto/rand ends the program instead
	return k
}

// ParseKey reads 64 hexadecimal digits. The error does not show the text.
func ParseKey(text string) (Key, error) {
	var k Key
	if len(text) != 2*KeySize {
		return k, fmt.Errorf("seal: a key has %d hexadecimal digits, got %d characters", 2*KeySize, len(text))
	}
	if _, err := hex.Decode(k[:], []byte(text)); err != nil {
		return Key{}, errors.New("seal: a key has hexadecimal digits only")
	}
	return k, nil
}

// Hex reveals the key as 64 lower case digits.
func (k Key) Hex() string { return hex.EncodeToString(k[:]) }

// IsZero says whether the key was never set.
func (k Key) IsZero() bool { return k == Key{} }

// String hides the key.
func (k Key) String() string { return hidden }

// Format hides the key from every verb of fmt.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// LogValue hides the key from log/slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the key from JSON and TOML encoders.
func (k Key) MarshalText() ([]byte, error) { return []byte(hidden), nil }

func (k Key) aead() cipher.AEAD {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic("seal: impossible key size: " + err.Error()) // KeySize is one of AES's
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: impossible block size: " + err.Error())
	}
	return gcm
}

// Seal encrypts plain, bound to the additional data ad, which may be nil.
func (k Key) Seal(plain, ad []byte) []byte {
	out := make([]byte, NonceSize, len(plain)+Overhead)
	_, _ = rand.Read(out)
	return k.aead().Seal(out, out[:NonceSize], plain, ad)
}

// Open decrypts what Seal made. The error matches ErrOpen.
func (k Key) Open(sealed, ad []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, fmt.Errorf("%w: %d bytes", ErrOpen, len(sealed))
	}
	plain, err := k.aead().Open(nil, sealed[:NonceSize], sealed[NonceSize:], ad)
	if err != nil {
		return nil, ErrOpen // the cause says nothing more
	}
	return plain, nil
}

// SealInPlace encrypts buf[NonceSize:NonceSize+n] where it is. buf is at least
// n+Overhead bytes; the sealed value is its first n+Overhead bytes.
func (k Key) SealInPlace(buf []byte, n int) []byte {
	_, _ = rand.Read(buf[:NonceSize])
	plain := buf[NonceSize : NonceSize+n]
	k.aead().Seal(plain[:0], buf[:NonceSize], plain, nil)
	return buf[:n+Overhead]
}

// OpenInPlace decrypts where it is and returns the plaintext, a part of sealed.
// When it fails sealed holds nothing usable.
func (k Key) OpenInPlace(sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, fmt.Errorf("%w: %d bytes", ErrOpen, len(sealed))
	}
	body := sealed[NonceSize:]
	plain, err := k.aead().Open(body[:0], sealed[:NonceSize], body, nil)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}
