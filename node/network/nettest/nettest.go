// Package nettest builds machines for tests from network namespaces: hosts on one network, and pods.
//
// Main runs a test binary again in its own network and mount namespace. Everything that tests create (pinned namespaces, devices,
// nftables tables) is in those two, so it vanishes with the process, even after kill -9.
package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/network/ns"
)

const inside = "KONTIKI_NETTEST_INSIDE"

// Main is for TestMain: os.Exit(nettest.Main(m)). The tests must run as root.
func Main(m *testing.M) int {
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "nettest: private mounts:", err)
			return 1
		}
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() < 1 {
			fmt.Fprintln(os.Stderr, "nettest: run in a namespace of its own (tests need root):", err)
			return 1
		}
		return cmd.ProcessState.ExitCode()
	}
	return 0
}

// Machine is a network namespace, pinned at Path.
type Machine struct {
	*ns.Namespace
	Path string
	t    testing.TB
}

// New creates a machine with only a loopback, which is up.
func New(t testing.TB) *Machine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := ns.Pin(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Unpin(path); err != nil {
			t.Error(err)
		}
	})
	return Open(t, path)
}

// Open opens a namespace that is pinned at path and brings its loopback up.
func Open(t testing.TB, path string) *Machine {
	t.Helper()
	n, err := ns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	m := &Machine{Namespace: n, Path: path, t: t}
	lo, err := m.NL().LinkByName("lo")
	if err == nil {
		err = m.NL().LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Hosts creates one machine for each address, all on one Ethernet (a switch in its own namespace), without a default route.
// Addresses are given as prefixes, "192.168.7.1/24"; the device is eth0 with an MTU of 1500.
func Hosts(t testing.TB, addresses ...string) []*Machine {
	t.Helper()
	sw := New(t)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	must(t, sw.NL().LinkAdd(br))
	must(t, sw.NL().LinkSetUp(br))
	var hosts []*Machine
	for i, a := range addresses {
		h := New(t)
		port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("port%d", i)}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.FD())}
		must(t, sw.NL().LinkAdd(port))
		must(t, sw.NL().LinkSetMaster(port, br))
		must(t, sw.NL().LinkSetUp(port))
		eth, err := h.NL().LinkByName("eth0")
		must(t, err)
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		must(t, h.NL().AddrAdd(eth, addr))
		must(t, h.NL().LinkSetUp(eth))
		hosts = append(hosts, h)
		awaitUp(t, h, "eth0")
		awaitUp(t, sw, port.Name)
	}
	return hosts
}

// awaitUp waits until a device can send: earlier packets are lost.
func awaitUp(t testing.TB, m *Machine, device string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if l, err := m.NL().LinkByName(device); err == nil && l.Attrs().OperState == netlink.OperUp {
			return
		}
	}
	t.Fatalf("device %s does not come up", device)
}

// NL returns the machine's route-netlink handle.
func (m *Machine) NL() *netlink.Handle {
	m.t.Helper()
	h, err := m.Handle()
	must(m.t, err)
	return h
}

// Sh runs a program in the machine and returns its output.
func (m *Machine) Sh(name string, args ...string) string {
	m.t.Helper()
	var out []byte
	err := m.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		m.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// Dial connects from the machine, with a deadline of two seconds. network is tcp4 or udp4; address is an IP and a port.
func (m *Machine) Dial(network, address string) (c net.Conn, err error) {
	err = m.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// DialTCPFrom connects from a given local IP.
func (m *Machine) DialTCPFrom(local, address string) (c net.Conn, err error) {
	err = m.Do(func() error {
		d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
		c, err = d.Dial("tcp4", address)
		return err
	})
	return c, err
}

// Serve accepts TCP connections and UDP packets at address:port in the machine: for each line it responds with "<name> <address of
// the client>\n". It ends with the test.
func (m *Machine) Serve(name, address string) {
	m.t.Helper()
	must(m.t, m.Do(func() error {
		l, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		m.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					buf := make([]byte, 512)
					for {
						if _, err := c.Read(buf); err != nil {
							return
						}
						fmt.Fprintf(c, "%s %s\n", name, netip.MustParseAddrPort(c.RemoteAddr().String()).Addr())
					}
				}()
			}
		}()
		p, err := net.ListenPacket("udp4", address)
		if err != nil {
			return err
		}
		m.t.Cleanup(func() { p.Close() })
		go func() {
			buf := make([]byte, 512)
			for {
				_, from, err := p.ReadFrom(buf)
				if err != nil {
					return
				}
				p.WriteTo([]byte(fmt.Sprintf("%s %s\n", name, netip.MustParseAddrPort(from.String()).Addr())), from)
			}
		}()
		return nil
	}))
}

// Ask connects to a server of Serve and returns its name and the client's address as the server saw it.
func (m *Machine) Ask(network, address string) (name, client string, err error) {
	c, err := m.Dial(network, address)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	return AskOn(c)
}

// AskOn does the same over an open connection.
func AskOn(c net.Conn) (name, client string, err error) {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("who\n")); err != nil {
		return "", "", err
	}
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		return "", "", err
	}
	_, err = fmt.Sscanf(string(buf[:n]), "%s %s", &name, &client)
	return name, client, err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
