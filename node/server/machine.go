package server

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// machine is what the node as a whole uses.
type machine struct {
	cpu                          uint64 // nanoseconds
	total, available, used, swap uint64 // bytes
	boot                         time.Time
}

func nodeUsage() machine {
	var m machine
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			switch {
			case len(f) > 4 && f[0] == "cpu":
				var busy uint64
				for i, v := range f[1:] {
					if n, err := strconv.ParseUint(v, 10, 64); err == nil && i != 3 && i != 4 { // neither idle nor iowait
						busy += n
					}
				}
				m.cpu = busy * uint64(time.Second) / 100
			case len(f) > 1 && f[0] == "btime":
				n, _ := strconv.ParseInt(f[1], 10, 64)
				m.boot = time.Unix(n, 0)
			}
		}
	}
	if f, err := os.Open("/proc/meminfo"); err == nil {
		defer f.Close()
		var swapTotal, swapFree uint64
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			k, v, _ := strings.Cut(sc.Text(), ":")
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			switch k {
			case "MemTotal":
				m.total = n << 10
			case "MemAvailable":
				m.available = n << 10
			case "SwapTotal":
				swapTotal = n << 10
			case "SwapFree":
				swapFree = n << 10
			}
		}
		m.used, m.swap = m.total-min(m.total, m.available), swapTotal-min(swapTotal, swapFree)
	}
	return m
}

// networkUse is what an interface has transferred.
type networkUse struct {
	name                                    string
	rxBytes, rxPackets, rxErrors, rxDropped uint64
	txBytes, txPackets, txErrors, txDropped uint64
}

// maxInterfaces limits how many interfaces of a process's network are read: a privileged pod can create as many as it likes.
const maxInterfaces = 64

// networkOf returns what the interfaces of a process's network namespace but the loopback have transferred; pid "self" is the agent's.
func networkOf(pid string) (out []networkUse) {
	f, err := os.Open("/proc/" + pid + "/net/dev")
	if err != nil {
		return nil
	}
	defer f.Close()
	return interfaces(f)
}

// interfaces reads the file net/dev of a process. An interface's name is what a pod has made of it: any bytes, which could not be a label's
// value, or the name of another one that is renamed meanwhile. Either would make all metrics of the node fail, so such interfaces are left out.
func interfaces(dev io.Reader) (out []networkUse) {
	lines := bufio.NewScanner(io.LimitReader(dev, 64<<10))
	seen := map[string]bool{}
	for lines.Scan() && len(out) < maxInterfaces {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(fields) < 16 || name == "lo" || seen[name] || !utf8.ValidString(name) {
			continue
		}
		seen[name] = true
		n := func(i int) uint64 {
			v, _ := strconv.ParseUint(fields[i], 10, 64)
			return v
		}
		out = append(out, networkUse{name: name, rxBytes: n(0), rxPackets: n(1), rxErrors: n(2), rxDropped: n(3),
			txBytes: n(8), txPackets: n(9), txErrors: n(10), txDropped: n(11)})
	}
	return out
}
