// Package show makes values from outside fit to be printed and stored: an address without what may
// be secret in it, and any text as one line that cannot be taken for another.
package show

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Address returns an address as it may be printed and stored: its scheme, host and path. User,
// password, query string and fragment are left out. Of a text that is no URL it returns what is
// certain to hold none of them.
func Address(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" && !strings.Contains(u.Path, "@") {
		return Line((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String())
	}
	at, query := strings.LastIndex(address, "@"), strings.IndexAny(address, "?#")
	switch {
	case at >= 0 && query >= 0 && query < at: // part of a password, or an @ in a query string: it is not known
		return "..."
	case query >= 0:
		address = address[:query]
	}
	if at >= 0 {
		address = "..." + address[at:]
	}
	return Line(address)
}

// maxLine is how many bytes Line returns at most of a text: what one record of a container's log
// holds.
const maxLine = 16 << 10

// maxShort is how many bytes Short returns at most of a value.
const maxShort = 200

// Line returns a text as one line: what is not printable is escaped as in a Go string, line breaks
// and what moves the cursor or turns the direction of writing among it. A text over 16 KiB is cut
// off, and ends with its length.
func Line(text string) string { return Cut(text, maxLine) }

// Short is Line for a value within a text: over 200 bytes it is cut off.
func Short(value string) string { return Cut(value, maxShort) }

// Quoted returns a value in quotes, as a Go string is written: over 200 bytes it is cut off.
func Quoted(value string) string {
	if len(value) > maxShort {
		value = strings.ToValidUTF8(value[:maxShort], "") + "..."
	}
	return strconv.Quote(value)
}

// Cut is Line for so many bytes of a text at most.
func Cut(text string, most int) string {
	var b strings.Builder
	for i, r := range text {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)) {
			size = -1
		}
		if i+max(size, 1) > most {
			fmt.Fprintf(&b, "... (%d bytes)", len(text))
			break
		}
		switch {
		case size < 0: // no UTF-8
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}
