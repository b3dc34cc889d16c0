package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The YAML library names a line at best, and not always the right one. What
// people do wrong is looked for here, in the text of a file that it refused: the
// first suspicious place, with column and remedy. Nothing of a value is quoted:
// it may be a password.

// fault is one place that is not YAML.
type fault struct {
	position
	msg, remedy string
}

// findFault gives the place where a text that is not YAML goes wrong.
func findFault(data []byte, cause error) fault {
	if f, ok := badText(data); ok {
		return f
	}
	s := &scanner{}
	for i, line := range strings.Split(string(data), "\n") {
		if f, ok := s.line(i+1, strings.TrimSuffix(line, "\r")); ok {
			return f
		}
	}
	if f, ok := s.end(); ok {
		return f
	}
	return fallback(data, cause)
}

// badText finds bytes that are no text.
func badText(data []byte) (fault, bool) {
	line, col := 1, 1
	for rest := bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")); len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		at := position{line, col}
		switch {
		case r == utf8.RuneError && n == 1:
			return fault{at, "not UTF-8 text", "save the file as UTF-8"}, true
		case r == 0:
			return fault{at, "a NUL byte: this is no text", "name the configuration file, or save it as UTF-8 text"}, true
		case r == '\n':
			line, col = line+1, 0
		case r != '\t' && r != '\r' && unicode.IsControl(r) && r != 0x85:
			return fault{at, fmt.Sprintf("the control character %U", r), "remove it"}, true
		}
		rest, col = rest[n:], col+1
	}
	return fault{}, false
}

// open is a bracket or a quote that was not closed yet.
type open struct {
	position
	char rune
}

// level is a map or a list in block style.
type level struct {
	col  int
	item bool // a list
}

// scanner goes over lines and remembers what goes on behind their ends.
type scanner struct {
	quote   *open
	flow    []open
	literal int     // the indent of the key whose block scalar (| or >) goes on; -1: none
	levels  []level // the block maps and lists that are open
	opened  bool    // the last line ends with a key that has no value yet
	begun   bool
}

const (
	deepest     = 64 // brackets within each other
	inQuotes    = "put the value in quotes: 'value'"
	notAllowed  = "not valid YAML: "
	exampleHint = "; `quantumd config example` shows a valid file"
)

func (s *scanner) line(n int, text string) (fault, bool) {
	if !s.begun {
		s.begun, s.literal = true, -1
		text = strings.TrimPrefix(text, "\ufeff")
	}
	runes := []rune(text)
	indent := 0
	for indent < len(runes) && runes[indent] == ' ' {
		indent++
	}
	rest := strings.TrimSpace(text)
	if (s.quote != nil || len(s.flow) > 0) && nextKey.MatchString(text) {
		return s.end() // what is open goes on into the next key
	}
	if s.quote == nil {
		if s.literal >= 0 {
			if rest == "" || indent > s.literal {
				return fault{}, false
			}
			s.literal = -1
		}
		if rest == "" || strings.HasPrefix(rest, "#") || rest == "---" || rest == "..." || strings.HasPrefix(text, "%YAML") {
			return fault{}, false
		}
		if len(s.flow) == 0 {
			if indent < len(runes) && runes[indent] == '\t' {
				return fault{position{n, indent + 1}, notAllowed + "a tab indents this line", "indent with blanks"}, true
			}
			if f, ok := s.indentation(n, indent, runes); ok {
				return f, true
			}
		}
	}
	w := &walk{scanner: s, line: n, runes: runes, start: true, indent: indent}
	f, ok := w.run(indent)
	s.opened = w.key && w.start || w.item && w.start
	return f, ok
}

// indentation looks at where a line of block YAML begins.
func (s *scanner) indentation(n, indent int, runes []rune) (fault, bool) {
	colon := keyEnd(runes)
	item := indent < len(runes) && runes[indent] == '-' && (indent+1 == len(runes) || runes[indent+1] == ' ')
	if colon < 0 && !item {
		if len(s.levels) > 0 && !s.opened && indent > s.levels[len(s.levels)-1].col {
			return fault{}, false // a value goes on in a second line
		}
		if s.opened && indent > 0 || strings.ContainsRune("{'\"|>", runes[indent]) {
			return fault{}, false
		}
		if i := tightColon(runes); i >= 0 {
			return fault{position{n, i + 1}, notAllowed + "no blank behind the colon", "write `key: value`"}, true
		}
		return fault{position{n, indent + 1}, notAllowed + "neither `key: value` nor `- item`", "write `key: value`, or put # before a comment"}, true
	}
	if f, ok := s.enter(n, indent, item); ok {
		return f, true
	}
	if item {
		for i := indent + 1; i < len(runes); i++ {
			if runes[i] != ' ' {
				if colon > i && !strings.ContainsRune("{[\"'", runes[i]) {
					s.levels = append(s.levels, level{i, false})
				}
				break
			}
		}
	}
	return fault{}, false
}

// enter finds the map or list that a line belongs to, or begins one.
func (s *scanner) enter(n, indent int, item bool) (fault, bool) {
	for len(s.levels) > 0 && s.levels[len(s.levels)-1].col > indent {
		s.levels = s.levels[:len(s.levels)-1]
	}
	depth := len(s.levels)
	if depth == 0 {
		s.levels = append(s.levels, level{indent, item})
		return fault{}, false
	}
	top := s.levels[depth-1]
	below := depth > 1 && s.levels[depth-2].col == top.col // the map whose list begins in its own column
	at := position{n, indent + 1}
	switch {
	case top.col == indent && top.item == item:
	case top.col == indent && item && s.opened, top.col < indent && s.opened:
		s.levels = append(s.levels, level{indent, item})
	case top.col == indent && !item && below:
		s.levels = s.levels[:depth-1]
	case top.col < indent:
		return fault{at, notAllowed + "this line is indented unlike those above", "begin it in the same column as the other keys of its map"}, true
	case item:
		return fault{at, notAllowed + "a list item among keys", "write the key of the list above it, or remove the -"}, true
	default:
		return fault{at, notAllowed + "a key among list items", "begin the line with - , or in the column of the key above the list"}, true
	}
	return fault{}, false
}

// keyEnd is the index of the colon that ends a key; -1: there is none.
func keyEnd(runes []rune) int {
	for i, r := range runes {
		if r == '#' && i > 0 && runes[i-1] == ' ' {
			return -1
		}
		if r == ':' && (i+1 == len(runes) || runes[i+1] == ' ' || runes[i+1] == '\t') {
			return i
		}
	}
	return -1
}

// tightColon is the index of a colon behind a word, with text behind it.
func tightColon(runes []rune) int {
	for i, r := range runes {
		if r == ':' && i > 0 {
			return i
		}
		if r != ' ' && r != '_' && !unicode.IsLetter(r) {
			return -1
		}
	}
	return -1
}

// walk goes over one line.
type walk struct {
	*scanner
	line   int
	runes  []rune
	indent int
	start  bool // a value or key may begin here
	key    bool // a key was read
	item   bool // a dash was read
	closed bool // a quoted text has ended, and nothing may follow but a colon
}

func (w *walk) at(i int, msg, remedy string) (fault, bool) {
	return fault{position{w.line, i + 1}, notAllowed + msg, remedy}, true
}

func (w *walk) run(from int) (fault, bool) {
	for i := from; i < len(w.runes); i++ {
		if w.quote != nil {
			next, f, bad := w.quoted(i)
			if bad {
				return f, true
			}
			i = next
			continue
		}
		r := w.runes[i]
		if r == ' ' || r == '\t' {
			continue
		}
		if r == '#' && i > 0 && (w.runes[i-1] == ' ' || w.runes[i-1] == '\t') {
			break
		}
		ends := i+1 == len(w.runes) || w.runes[i+1] == ' ' || w.runes[i+1] == '\t'
		f, done, bad := w.char(i, r, ends)
		if bad || done {
			return f, bad
		}
	}
	return fault{}, false
}

func (w *walk) char(i int, r rune, ends bool) (f fault, done, bad bool) {
	inFlow := len(w.flow) > 0
	switch {
	case inFlow && (r == ']' || r == '}'):
		f, bad = w.closeBracket(i, r)
		w.start = false
	case inFlow && r == ',':
		w.start, w.closed = true, false
	case r == ':' && (ends || inFlow && (w.closed || !w.start && i+1 < len(w.runes) && strings.ContainsRune(",]}", w.runes[i+1]))):
		if !inFlow && w.key {
			f, bad = w.at(i, "a second `: ` in one line", inQuotes+", or begin a new line")
			return f, false, bad
		}
		w.key, w.start, w.closed = w.key || !inFlow, true, false
	case w.closed && !inFlow:
		f, bad = w.at(i, "text behind the closing quote", "put the whole value between the quotes; a quote within is written twice in '…'")
	case w.start:
		return w.begin(i, r, ends)
	}
	return f, false, bad
}

// begin looks at the first character of a value or key.
func (w *walk) begin(i int, r rune, ends bool) (f fault, done, bad bool) {
	switch {
	case r == '-' && ends && len(w.flow) == 0 && !w.key:
		w.item = true
		return f, false, false
	case r == '"' || r == '\'':
		w.quote = &open{position{w.line, i + 1}, r}
	case r == '[' || r == '{':
		w.flow = append(w.flow, open{position{w.line, i + 1}, r})
		if len(w.flow) > deepest {
			f, bad = w.at(i, "nested too deep", "no key of a configuration needs more than three brackets; `quantumd config example` shows them")
		}
		return f, false, bad
	case (r == '|' || r == '>') && len(w.flow) == 0:
		w.start, w.literal = false, w.indent
		return f, true, false
	case r == '*':
		f, bad = w.at(i, "a value that begins with * is an alias, which nothing here is called", inQuotes)
	case r == '@' || r == '`' || r == '%':
		f, bad = w.at(i, fmt.Sprintf("a value cannot begin with %c", r), inQuotes)
	case r == ']' || r == '}' || r == ',':
		f, bad = w.at(i, fmt.Sprintf("a value cannot begin with %c", r), inQuotes+", or remove it")
	}
	w.start = false
	return f, false, bad
}

func (w *walk) closeBracket(i int, r rune) (fault, bool) {
	last := w.flow[len(w.flow)-1]
	if (last.char == '[') != (r == ']') {
		return w.at(i, fmt.Sprintf("%c closes the %c of line %d, column %d", r, last.char, last.line, last.col), "close brackets in the order in which they are opened")
	}
	w.flow = w.flow[:len(w.flow)-1]
	return fault{}, false
}

// quoted goes one character on within quotes.
func (w *walk) quoted(i int) (next int, f fault, bad bool) {
	r := w.runes[i]
	switch {
	case w.quote.char == '"' && r == '\\':
		if i+1 < len(w.runes) && !strings.ContainsRune("0abt\tnvfre \"/\\N_LPxuU", w.runes[i+1]) {
			f, bad = w.at(i, "an unknown escape in \"…\"", `write \\ for a backslash, or use '…'`)
		}
		return i + 1, f, bad
	case r != w.quote.char:
	case r == '\'' && i+1 < len(w.runes) && w.runes[i+1] == '\'':
		return i + 1, f, false
	default:
		w.quote, w.start, w.closed = nil, false, true
	}
	return i, f, false
}

// end looks at what is still open behind the last line.
func (s *scanner) end() (fault, bool) {
	if s.quote != nil {
		return fault{s.quote.position, fmt.Sprintf(notAllowed+"the quote %c is never closed", s.quote.char), "close it at the end of the value"}, true
	}
	if len(s.flow) > 0 {
		last := s.flow[len(s.flow)-1]
		return fault{last.position, fmt.Sprintf(notAllowed+"the %c is never closed", last.char), "close it behind the last item"}, true
	}
	return fault{}, false
}

var (
	nextKey  = regexp.MustCompile(`^[A-Za-z_]+:( |$)`)
	yamlLine = regexp.MustCompile(`line (\d+): `)
	quotedIn = regexp.MustCompile(`'[^']{2,}'`) // names of anchors and tags: parts of values
)

// fallback says what the library says.
func fallback(data []byte, cause error) fault {
	at := position{1, 1}
	if m := yamlLine.FindStringSubmatch(cause.Error()); m != nil {
		at.line, _ = strconv.Atoi(m[1]) // digits by the pattern
	}
	if lines := strings.Split(string(data), "\n"); at.line <= len(lines) {
		line := []rune(lines[at.line-1])
		for at.col <= len(line) && unicode.IsSpace(line[at.col-1]) {
			at.col++
		}
		if at.col > len(line) {
			at.col = 1
		}
	}
	return fault{at, notAllowed + yamlReason(cause), "correct the line" + exampleHint}
}

func yamlReason(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	return quotedIn.ReplaceAllString(yamlLine.ReplaceAllString(text, ""), "'…'")
}
