package sharing

import (
	"regexp"
	"strings"
	"sync"
)

// inURL finds the password of a URL, as symbol paths have it.
var inURL = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(://[^\s/:@*;]*:)[^\s/@*;]+@`)
})

// Masked is a line without the passwords that commands in it take, wherever they
// stand: what is typed goes to everybody, and into logs. Of .server it hides what
// stands behind password=, of .netuse all that follows the user's name, and of
// URLs what stands behind the user's name.
func Masked(line string) string {
	line = maskCommands(line)
	if text := inURL().ReplaceAllString(line, "$1*@"); text != line {
		// What was a URL's password may have held quotation marks.
		return maskCommands(text)
	}
	return line
}

func maskCommands(line string) string {
	var b strings.Builder
	for i := 0; i < len(line); {
		word := ""
		if i == 0 || !nameByte(line[i-1]) {
			for _, w := range []string{".server", ".netuse"} {
				if end := i + len(w); end <= len(line) && strings.EqualFold(line[i:end], w) && (end == len(line) || !nameByte(line[end])) {
					word = w
				}
			}
		}
		if word == "" {
			b.WriteByte(line[i])
			i++
			continue
		}
		b.WriteString(line[i : i+len(word)])
		i += len(word)
		if word == ".server" {
			end := i + lineLength(line[i:])
			b.WriteString(maskTransport(line[i:end]))
			i = end
			continue
		}
		text, n := maskNetUse(line[i:])
		b.WriteString(text)
		i += n
	}
	return b.String()
}

// nameByte says whether a byte can be part of a command's name.
func nameByte(c byte) bool {
	return c == '.' || c == '!' || c == '_' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

func lineLength(t string) int {
	if n := strings.IndexByte(t, '\n'); n >= 0 {
		return n
	}
	return len(t)
}

func maskTransport(text string) string {
	whole := text
	text = strings.TrimRight(text, " \t}") // a block ends here
	tail := whole[len(text):]
	parts := strings.Split(text, ",")
	for i, p := range parts {
		head := ""
		if proto, first, ok := strings.Cut(p, ":"); ok && i == 0 {
			head, p = proto+":", first
		}
		if key, _, ok := strings.Cut(p, "="); ok && strings.EqualFold(strings.TrimSpace(key), "password") {
			parts[i] = head + key + "=*"
		}
	}
	return strings.Join(parts, ",") + tail
}

// maskNetUse hides what stands behind `/a "local" "remote" "user"`, to the end of
// the command. What is not quoted as it should be is hidden too. It returns how
// many bytes it has looked at.
func maskNetUse(text string) (string, int) {
	end := lineLength(text)
	i, words := 0, 0
	for i < end && words < 4 {
		for i < end && (text[i] == ' ' || text[i] == '\t') {
			i++
		}
		if i == end || text[i] == ';' {
			return text[:i], i
		}
		if words++; text[i] != '"' {
			for i < end && text[i] != ' ' && text[i] != '\t' && text[i] != ';' {
				i++
			}
			continue
		}
		for i++; i < end && text[i] != '"'; i++ {
			if text[i] == '\\' {
				i++
			}
		}
		if i = min(i+1, end); i == end && text[end-1] != '"' {
			return " *", end // who knows where it ends
		}
	}
	rest := strings.TrimLeft(text[i:end], " \t")
	if rest == "" || rest[0] == ';' || rest[0] == '}' {
		return text[:i], i
	}
	// The password may hold a semicolon in its quotes.
	tail := ""
	behind := func(n int) {
		if t := strings.TrimLeft(rest[n:], " \t"); t == "" || t[0] == ';' || t[0] == '}' {
			tail = rest[n:]
		}
	}
	switch rest[0] {
	case '*': // it is hidden already
		behind(1)
	case '"':
		for j := 1; j < len(rest); j++ {
			if rest[j] == '\\' {
				j++
			} else if rest[j] == '"' {
				behind(j + 1)
				break
			}
		}
	}
	if rest == `""`+tail {
		return text[:end-len(tail)], end - len(tail)
	}
	return text[:i] + " *", end - len(tail)
}
