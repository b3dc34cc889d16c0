package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

type manCmd struct {
	Date string `placeholder:"SECONDS" help:"Date of the page, in seconds since 1970; else it has none." default:"0"`
}

// Run prints the manual page, which is made of the grammar.
func (c manCmd) Run(a *app, k *kong.Context) error {
	date := ""
	var seconds int64
	if _, err := fmt.Sscan(c.Date, &seconds); err != nil {
		return &usageError{fmt.Errorf("--date: %w", err)}
	}
	if seconds > 0 {
		date = time.Unix(seconds, 0).UTC().Format(time.DateOnly)
	}
	return writeManual(a.stdout, k.Model.Node, date)
}

// writeManual writes the page quantumd(1) in the macros man(7).
func writeManual(w io.Writer, root *kong.Node, date string) error {
	m := &manual{}
	m.linef(`.TH QUANTUMD 1 "%s" "quantumd %s" "User Commands"`, date, roff(version()))
	m.linef(".SH NAME\nquantumd \\- a file system whose data survives lost machines and untrusted ones")
	m.linef(".SH SYNOPSIS\n.B quantumd\n.RI [ flags ]\n.I command\n.RI [ flags ]\n.RI [ arguments ]")
	m.linef(".SH DESCRIPTION")
	m.text(description, false)
	m.linef(".SH FLAGS\nThose of every command:")
	m.flags(root.Flags)
	m.linef(".SH COMMANDS")
	m.commands(root, "quantumd")
	m.linef(`.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
failed
.TP
.B 2
wrong usage or configuration, or a question that nobody could answer
.TP
.B 3
degraded: works, with damage that is or can be repaired
.TP
.B 4
data is lost
.TP
.B 5
fenced: another frontend has taken over
.SH ENVIRONMENT
.TP
.B QUANTUMD_CONFIG
the configuration, where no flag names one
.TP
.B MNEMONIC\fR, \fBNETWORK\fR, \fBPASSWORD\fR, \fBRETRY_INTERVAL\fR, \fBQUANTUMD_\fIKEY
a key of the configuration; wins over the file
.SH FILES
.TP
.I /etc/quantumd.yaml
configuration of the installed system;
.B quantumd config example
prints one with every key
.TP
.I /var/lib/quantumd
its state
.TP
.I /opt/zdb
the local copy of the data
.TP
.I /run/qsfs
its sockets`)
	_, err := io.WriteString(w, m.b.String())
	return err
}

type manual struct{ b strings.Builder }

func (m *manual) linef(format string, args ...any) { fmt.Fprintf(&m.b, format+"\n", args...) }

// roff keeps a text from being read as macros or escapes.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// text writes paragraphs; lines that are indented stay as they are. Apart:
// something stands before it.
func (m *manual) text(s string, apart bool) {
	example, blank := false, apart
	for _, line := range strings.Split(strings.TrimRight(s, "\n"), "\n") {
		if strings.TrimSpace(line) == "" {
			blank = true
			continue
		}
		asIs := strings.HasPrefix(line, "  ") || strings.Contains(strings.TrimSpace(line), "    ")
		switch {
		case asIs && !example:
			m.linef(".PP\n.EX")
		case !asIs && example:
			m.linef(".EE\n.PP")
		case blank && example:
			m.linef("")
		case blank:
			m.linef(".PP")
		}
		m.linef("%s", roff(line))
		example, blank = asIs, false
	}
	if example {
		m.linef(".EE")
	}
}

func (m *manual) flags(flags []*kong.Flag) {
	sorted := slices.SortedFunc(slices.Values(flags), func(x, y *kong.Flag) int { return cmp.Compare(x.Name, y.Name) })
	for _, f := range sorted {
		if f.Hidden {
			continue
		}
		name := `\fB` + roff("--"+f.Name) + `\fR`
		if f.Short != 0 {
			name = `\fB` + roff("-"+string(f.Short)) + `\fR, ` + name
		}
		if !f.IsBool() {
			value := strings.Trim(f.FormatPlaceHolder(), `"`)
			if value == "" {
				value = strings.ToUpper(f.Name)
			}
			name += `=\fI` + roff(value) + `\fR`
		}
		m.linef(".TP\n%s\n%s", name, roff(f.Help))
	}
}

// commands writes what stands below a node, each with its own flags.
func (m *manual) commands(n *kong.Node, path string) {
	for _, c := range n.Children {
		if c.Hidden || c.Type != kong.CommandNode {
			continue
		}
		full := path + " " + c.Name
		heading := `\fB` + roff(full) + `\fR`
		for _, p := range c.Positional {
			heading += ` \fI` + roff(p.Summary()) + `\fR`
		}
		m.linef(".SS %s", heading)
		if c.Help != "" {
			m.linef("%s", roff(c.Help))
		}
		for _, p := range c.Positional {
			if p.Help != "" {
				m.linef(".TP\n\\fI%s\\fR\n%s", roff(p.Summary()), roff(p.Help))
			}
		}
		m.flags(c.Flags)
		if c.Detail != "" {
			m.text(c.Detail, true)
		}
		m.commands(c, full)
	}
}
