package config

import (
	"fmt"
	"strings"
	"unicode"
)

func (v *validator) secrets() {
	c := v.c
	v.key()
	v.mnemonic()
	if len(c.Backends) > 0 {
		if c.EncryptionKey == "" && c.Mnemonic == "" {
			v.bad("encryption_key", "empty: nothing to encrypt with", "make one with `openssl rand -hex 32` and keep a copy off this machine; or set encryption_key_file, mnemonic or mnemonic_file", "mnemonic", "backends")
		}
		return
	}
	v.grid()
}

func (v *validator) key() {
	text := v.c.EncryptionKey.Reveal()
	if text == "" {
		return
	}
	msg := ""
	if i := strings.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF", r) }); i >= 0 {
		msg = fmt.Sprintf("not 64 hex digits: character %d is none", i+1)
	} else if len(text) != 64 {
		msg = fmt.Sprintf("not 64 hex digits, but %d", len(text))
	} else if strings.Trim(text, "0") == "" {
		msg = "a key of zeros protects nothing"
	}
	if msg != "" {
		v.bad("encryption_key", msg, "make one with `openssl rand -hex 32` and keep a copy off this machine", "encryption_key_file")
	}
}

func (v *validator) mnemonic() {
	text := strings.Fields(v.c.Mnemonic.Reveal())
	if len(text) == 0 || len(text) == 1 && strings.HasPrefix(text[0], "0x") {
		return
	}
	if n := len(text); n%3 != 0 || n < 12 || n > 24 {
		v.bad("mnemonic", fmt.Sprintf("%d words, but a mnemonic has 12, 15, 18, 21 or 24", n), "write the whole mnemonic, its words with blanks between them", "mnemonic_file")
	}
}

// grid checks what only the ThreeFold Grid needs.
func (v *validator) grid() {
	c := v.c
	if c.failed["backends"] || c.failed["mnemonic"] {
		return
	}
	if c.Mnemonic == "" {
		v.bad("mnemonic", "empty, and no backends are listed", "for the ThreeFold Grid set mnemonic, mnemonic_file or MNEMONIC; for zdbs of your own list them under backends; for this machine alone use `quantumd deploy --local`")
		return
	}
	for _, need := range []struct{ key, value, remedy string }{
		{"network", c.Network, "write main, test, qa or dev, or set NETWORK"},
		{"deployment_name", c.DeploymentName, "give the deployment a name, such as backup1"},
		{"password", c.Password.Reveal(), "set password, password_file or PASSWORD: it is also part of the encryption key"},
	} {
		if need.value == "" {
			v.bad(need.key, "empty", need.remedy)
		}
	}
	if strings.ContainsFunc(c.DeploymentName, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_'
	}) {
		v.bad("deployment_name", shown(c.DeploymentName)+" has other characters than letters and digits", "use letters and digits")
	}
	if strings.ContainsAny(c.Password.Reveal(), "- \t") {
		v.bad("password", "has a blank or a - in it, which nodes of the grid do not take", "use letters and digits", "password_file")
	}
	if len(c.Farms) == 0 && (len(c.MetaNodes) == 0 || len(c.DataNodes) == 0) {
		v.bad("farms", "empty, and meta_nodes or data_nodes is empty too", "list farms, or nodes of both kinds", "meta_nodes", "data_nodes")
	}
}
