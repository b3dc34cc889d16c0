package zinit

import (
	"errors"
	"strings"
)

// errSplit says that a command line does not part into words.
var errSplit = errors.New("zinit: a quote or a backslash without its end")

// quote gives a word as a POSIX shell, and the splitter of zinit, read it.
func quote(word string) string {
	if word != "" && !strings.ContainsFunc(word, special) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func special(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_@%+=:,./-", r))
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for n, w := range words {
		quoted[n] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// Split parts a command line as zinit does (the crate shlex): blanks and line
// breaks part words, `#` where a word would begin opens a comment, a backslash
// before a line break is nothing — but a word, if blanks surround it.
func Split(line string) ([]string, error) {
	s := splitter{in: line}
	var words []string
	for {
		word, ok, err := s.next()
		if err != nil || !ok {
			return words, err
		}
		words = append(words, word)
	}
}

type splitter struct {
	in string
	at int
}

func (s *splitter) char() (byte, bool) {
	if s.at >= len(s.in) {
		return 0, false
	}
	s.at++
	return s.in[s.at-1], true
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

func (s *splitter) next() (word string, ok bool, err error) {
	c, ok := s.char()
	for ok && (blank(c) || c == '#') {
		if c == '#' {
			for c, ok = s.char(); ok && c != '\n'; c, ok = s.char() {
			}
		}
		c, ok = s.char()
	}
	if !ok {
		return "", false, nil
	}
	var out []byte
	for ; ok && !blank(c); c, ok = s.char() {
		switch c {
		case '"':
			out, err = s.double(out)
		case '\'':
			out, err = s.single(out)
		case '\\':
			c2, more := s.char()
			if !more {
				return "", false, errSplit
			}
			if c2 != '\n' {
				out = append(out, c2)
			}
		default:
			out = append(out, c)
		}
		if err != nil {
			return "", false, err
		}
	}
	return string(out), true, nil
}

func (s *splitter) single(out []byte) ([]byte, error) {
	for c, ok := s.char(); ok; c, ok = s.char() {
		if c == '\'' {
			return out, nil
		}
		out = append(out, c)
	}
	return nil, errSplit
}

func (s *splitter) double(out []byte) ([]byte, error) {
	for c, ok := s.char(); ok; c, ok = s.char() {
		switch c {
		case '"':
			return out, nil
		case '\\':
			c2, more := s.char()
			switch {
			case !more:
				return nil, errSplit
			case strings.IndexByte("$`\"\\", c2) >= 0:
				out = append(out, c2)
			case c2 != '\n':
				out = append(out, '\\', c2)
			}
		default:
			out = append(out, c)
		}
	}
	return nil, errSplit
}
