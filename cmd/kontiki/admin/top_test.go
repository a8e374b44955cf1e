package admin

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gdamore/tcell/v3/vt"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	apiclient "github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// topArguments names the variable with which the test program runs `kontiki top` itself, with the arguments in it.
const topArguments = "KONTIKI_TEST_TOP"

// TestMain is kubectl if the command runs it, for a shell.
func TestMain(m *testing.M) {
	if _, ok := os.LookupEnv(topArguments); ok && len(os.Args) > 1 && os.Args[1] == "kubectl" {
		os.Exit(Kubectl(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// TestTopProcess is the command in a process of its own, for the tests below.
func TestTopProcess(t *testing.T) {
	arguments, ok := os.LookupEnv(topArguments)
	if !ok {
		// A process of the test binary is the only way to have the command on a terminal; without its arguments there is nothing to test.
		t.Skip("it is run by the other tests")
	}
	cmd := topCommand()
	cmd.SetArgs(strings.Fields(arguments))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func topProcess(arguments string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestTopProcess$")
	cmd.Env = append(os.Environ(), topArguments+"="+arguments, "TERM=xterm-256color", "LANG=C.UTF-8", "LC_ALL=C.UTF-8")
	return cmd
}

// terminal is a pseudo terminal, with what a terminal program shows of it.
type terminal struct {
	t      *testing.T
	screen vt.MockTerm
	master *os.File
	slave  *os.File
	mu     sync.Mutex
	raw    bytes.Buffer
}

func newTerminal(t *testing.T, width, height int) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	term := &terminal{t: t, master: master, slave: slave, screen: vt.NewMockTerm(vt.MockOptSize{X: vt.Col(width), Y: vt.Row(height)})}
	term.resize(width, height)
	if err := term.screen.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { term.screen.Close() })
	go func() { // what the program writes
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			if err != nil {
				return
			}
			term.mu.Lock()
			term.raw.Write(buffer[:n])
			term.mu.Unlock()
			if _, err := term.screen.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	go func() { // what the terminal answers to the program's questions
		buffer := make([]byte, 4096)
		for {
			n, err := term.screen.Read(buffer)
			if err != nil {
				return
			}
			if _, err := master.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	return term
}

func (term *terminal) resize(width, height int) {
	term.t.Helper()
	if err := unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		term.t.Fatal(err)
	}
}

func (term *terminal) press(keys string) {
	term.t.Helper()
	if _, err := term.master.WriteString(keys); err != nil {
		term.t.Fatal(err)
	}
}

func (term *terminal) text() string {
	size, err := term.screen.WindowSize()
	if err != nil {
		term.t.Fatal(err)
	}
	var out strings.Builder
	for y := range size.Height {
		for x := range size.Width {
			cell := term.screen.GetCell(vt.Coord{X: vt.Col(x), Y: vt.Row(y)})
			if cell.C == "" {
				cell.C = " "
			}
			out.WriteString(cell.C)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// shows waits until the terminal shows all texts, and none of those that begin with "!".
func (term *terminal) shows(texts ...string) {
	term.t.Helper()
	await.That(term.t, strings.Join(texts, ", "), func() error {
		screen := term.text()
		for _, text := range texts {
			without, not := strings.CutPrefix(text, "!")
			if strings.Contains(screen, without) == not {
				return fmt.Errorf("%q in\n%s", text, screen)
			}
		}
		return nil
	})
}

// topCluster serves an API with two pods, of which one has a log with escape sequences, and returns its kubeconfig's path.
func topCluster(t *testing.T) string {
	t.Helper()
	h := harness.New(t)
	for _, name := range []string{"web-0", "db-0"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}}}
		if _, err := apiclient.Create(context.Background(), h.Client, pod); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", h.AsAdmin())
	mux.HandleFunc("/api/v1/namespaces/default/pods/web-0/log", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first line\n\x1b[2J\x1b]0;owned\x07second line\n")
		if r.FormValue("follow") == "true" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	server := httptest.NewTLSServer(mux)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	path := filepath.Join(t.TempDir(), "kubeconfig")
	user := h.Config("admin", "system:masters") // kubectl asks for a name and password without any
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: server.URL, CertificateAuthorityData: ca}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c", Namespace: "default", AuthInfo: "admin"}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"admin": {ClientCertificateData: user.CertData, ClientKeyData: user.KeyData}},
		CurrentContext: "c",
	}, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTopInATerminal(t *testing.T) {
	kubeconfig := topCluster(t)
	term := newTerminal(t, 120, 20)
	cmd := topProcess("--kubeconfig " + kubeconfig)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = term.slave, term.slave, term.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })

	term.shows("pods  default  2", "STATUS", "web-0", "db-0", "Pending")
	term.press("/web")
	term.shows("1/2", "web-0", "!db-0")
	term.press("\r")
	term.shows("q quit")
	term.press("l")
	term.shows("logs of default/web-0 main", "following", "first line", "second line", "!owned")
	term.press("q")
	term.shows("STATUS", "web-0")
	term.press("y")
	term.shows("yaml pods default/web-0", "image: nginx")
	term.press("q")
	term.shows("STATUS")
	term.press("d")
	term.shows("describe pods default/web-0", "Containers:")
	term.press("q")
	term.shows("STATUS")
	term.press("s") // which the pod, that no worker runs, cannot have
	term.shows("the shell: exit status 1: error:", "STATUS")
	term.screen.SetSize(vt.Coord{X: 100, Y: 12})
	term.resize(100, 12)
	await.That(t, "the smaller screen", func() error {
		all := strings.Split(strings.TrimSpace(term.text()), "\n")
		if len(all) != 12 || !strings.Contains(all[11], "the shell:") && !strings.Contains(all[11], ": kind") {
			return fmt.Errorf("%d lines:\n%s", len(all), term.text())
		}
		return nil
	})
	term.press(":nosuch\r")
	term.shows("the cluster serves no kind nosuch")
	term.press(":ns\r")
	term.shows("namespaces  cluster", "kube-system", "!web-0")
	term.press("\x04")
	term.shows("Delete namespaces default?")
	term.press("n")
	term.shows("not deleted")
	term.press("q")
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v:\n%s", err, term.text())
	}
	term.mu.Lock()
	defer term.mu.Unlock()
	if bytes.Contains(term.raw.Bytes(), []byte("owned")) {
		t.Error("an escape sequence of a log reached the terminal")
	}
}

func TestTopNeedsATerminal(t *testing.T) {
	out, err := topProcess("--kubeconfig " + topCluster(t)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "top needs a terminal") {
		t.Errorf("%v: %s", err, out)
	}
}
