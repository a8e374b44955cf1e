package stats

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kontiki/kontiki/node/runtime"
)

// Machine is what the node as a whole uses.
type Machine struct {
	CPU                                     uint64 // nanoseconds
	Total, Available, Used, Swap            uint64 // bytes of memory
	Boot                                    time.Time
	CPUPressure, MemoryPressure, IOPressure *runtime.Pressure // nil if the kernel does not tell
}

func machineUsage() Machine {
	var m Machine
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
				m.CPU = busy * uint64(time.Second) / 100
			case len(f) > 1 && f[0] == "btime":
				n, _ := strconv.ParseInt(f[1], 10, 64)
				m.Boot = time.Unix(n, 0)
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
				m.Total = n << 10
			case "MemAvailable":
				m.Available = n << 10
			case "SwapTotal":
				swapTotal = n << 10
			case "SwapFree":
				swapFree = n << 10
			}
		}
		m.Used, m.Swap = m.Total-min(m.Total, m.Available), swapTotal-min(swapTotal, swapFree)
	}
	m.CPUPressure, m.MemoryPressure, m.IOPressure = pressure("cpu"), pressure("memory"), pressure("io")
	return m
}

// pressure reads the node's pressure stall information of a resource.
func pressure(resource string) *runtime.Pressure {
	b, err := os.ReadFile("/proc/pressure/" + resource)
	if err != nil {
		return nil
	}
	var p runtime.Pressure
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 5 {
			continue
		}
		number := func(i int) float64 {
			_, v, _ := strings.Cut(f[i], "=")
			n, _ := strconv.ParseFloat(v, 64)
			return n
		}
		s := runtime.Stall{Avg10: number(1), Avg60: number(2), Avg300: number(3), TotalNanoseconds: uint64(number(4)) * 1000} // the kernel counts microseconds
		switch f[0] {
		case "some":
			p.Some = s
		case "full":
			p.Full = s
		}
	}
	return &p
}

// Interface is what a network interface has transferred.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// maxInterfaces limits how many interfaces of a process's network are read: a privileged pod can create as many as it likes.
const maxInterfaces = 64

// networkOf returns what the interfaces of a process's network namespace but the loopback have transferred; pid "self" is the agent's.
func networkOf(pid string) (out []Interface) {
	f, err := os.Open("/proc/" + pid + "/net/dev")
	if err != nil {
		return nil
	}
	defer f.Close()
	return Interfaces(f)
}

// Interfaces reads the file net/dev of a process. An interface's name is what a pod has made of it: any bytes, which could not be a label's
// value, or the name of another one that is renamed meanwhile. Either would make all metrics of the node fail, so such interfaces are left out.
func Interfaces(dev io.Reader) (out []Interface) {
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
		out = append(out, Interface{Name: name, RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11)})
	}
	return out
}
