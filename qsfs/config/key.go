package config

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"strings"
)

// BIP-39: a seed is 2048 rounds of PBKDF2 with HMAC-SHA-512 over the words,
// with "mnemonic" and the passphrase as salt.
const (
	bip39Rounds = 2048
	bip39Seed   = 64
)

// deriveKey gives the key that the reference derives: SHA-256 of the BIP-39
// seed. Deployments made by it are read only with exactly this key.
func deriveKey(mnemonic, password Secret) ([]byte, error) {
	words := strings.Join(strings.Fields(mnemonic.Reveal()), " ")
	seed, err := pbkdf2.Key(sha512.New, words, []byte("mnemonic"+password.Reveal()), bip39Rounds, bip39Seed)
	if err != nil {
		return nil, fmt.Errorf("derive the encryption key: %w", err)
	}
	key := sha256.Sum256(seed)
	return key[:], nil
}
