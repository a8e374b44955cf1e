package top

import (
	"unicode/utf8"

	"github.com/gdamore/tcell/v3"
	"github.com/gdamore/tcell/v3/color"
)

// looks are the styles of lines, in the terminal's own colors.
var looks = map[Look]tcell.Style{
	Normal:  tcell.StyleDefault,
	Title:   tcell.StyleDefault.Bold(true).Reverse(true),
	Header:  tcell.StyleDefault.Bold(true),
	Current: tcell.StyleDefault.Reverse(true),
	Bad:     tcell.StyleDefault.Foreground(color.Maroon).Bold(true),
	Faint:   tcell.StyleDefault.Dim(true),
}

// draw shows the lines of a model.
func draw(screen tcell.Screen, m *Model) {
	width, _ := screen.Size()
	screen.Fill(' ', tcell.StyleDefault)
	for y, line := range m.View() {
		style := looks[line.Look]
		x := 0
		for rest := line.Text; rest != "" && x < width; {
			left, w := screen.Put(x, y, rest, style)
			if len(left) == len(rest) { // nothing was taken
				_, size := utf8.DecodeRuneInString(rest)
				left = rest[size:]
			}
			rest, x = left, x+w
		}
		if line.Look == Title || line.Look == Current {
			for ; x < width; x++ {
				screen.Put(x, y, " ", style)
			}
		}
	}
	screen.Show()
}

var keyNames = map[tcell.Key]string{
	tcell.KeyUp: "up", tcell.KeyDown: "down", tcell.KeyPgUp: "pgup", tcell.KeyPgDn: "pgdn", tcell.KeyHome: "home", tcell.KeyEnd: "end",
	tcell.KeyEnter: "enter", tcell.KeyEsc: "esc", tcell.KeyTab: "tab", tcell.KeyBackspace: "backspace",
	tcell.KeyCtrlC: "ctrl-c", tcell.KeyCtrlD: "ctrl-d", tcell.KeyCtrlU: "ctrl-u", tcell.KeyCtrlW: "ctrl-w",
	tcell.KeyCtrlF: "pgdn", tcell.KeyCtrlB: "pgup",
}

// keyName returns a key as Model.Key takes it, or nothing.
func keyName(event *tcell.EventKey) string {
	if name, ok := keyNames[event.Key()]; ok {
		return name
	}
	if event.Key() == tcell.KeyRune && event.Modifiers()&(tcell.ModCtrl|tcell.ModAlt|tcell.ModMeta) == 0 {
		return event.Str()
	}
	return ""
}
