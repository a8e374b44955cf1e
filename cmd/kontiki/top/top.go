package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/gdamore/tcell/v3"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// refresh is the shortest time between two looks at what changed in the cluster. Keys are answered at once.
const refresh = 250 * time.Millisecond

// requestTime limits requests that are not followed.
const requestTime = 30 * time.Second

// Options are those of Run.
type Options struct {
	Config    *rest.Config // whose credentials all requests carry
	Namespace string       // the first one; empty means all
	Kind      string       // the first one, as kubectl takes it
	Now       func() time.Time
	// Shell returns the command of a shell in a pod, to which the terminal is given.
	Shell func(ctx context.Context, namespace, pod string) (*exec.Cmd, error)
}

type app struct {
	Options
	set     *kubernetes.Clientset
	client  rest.Interface
	screen  tcell.Screen
	model   *Model
	kinds   []Kind
	changed chan struct{}
	results chan func()

	feed     *Feed
	stopFeed context.CancelFunc
	log      *stream
	stopText context.CancelFunc
	// texts counts what was asked to be shown instead of the table, so that late answers are dropped.
	texts int
	last  string // the namespace of the last namespaced list
}

// Run shows the cluster on the process's terminal until the user ends it or the context ends. It fails if standard input or output is not a
// terminal, or if the cluster does not say what it serves.
func Run(ctx context.Context, o Options) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		return errors.New("top needs a terminal, and standard input or output is none: for scripts use `kontiki kubectl get` or `kontiki kubectl top`")
	}
	// What client-go has to say would be written over the screen; errors are shown in its last line.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	o.Config = rest.CopyConfig(o.Config)
	o.Config.WarningHandler, o.Config.WarningHandlerWithContext = rest.NoWarnings{}, nil
	set, err := kubernetes.NewForConfig(o.Config)
	if err != nil {
		return err
	}
	a := &app{Options: o, set: set, client: set.CoreV1().RESTClient(), changed: make(chan struct{}, 1), results: make(chan func(), 16), last: o.Namespace}
	asking, cancel := context.WithTimeout(ctx, requestTime)
	a.kinds, err = kinds(asking, set.Discovery())
	cancel()
	if err != nil {
		return fmt.Errorf("what the cluster serves: %w", err)
	}
	kind, ok := find(a.kinds, o.Kind)
	if !ok {
		return fmt.Errorf("the cluster serves no kind %q that can be listed; `kontiki kubectl api-resources` names them", o.Kind)
	}
	tty, err := tcell.NewDevTty() // not standard input: it would be left in non-blocking mode, for shells too
	if err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	if a.screen, err = tcell.NewTerminfoScreenFromTty(tty, tcell.OptSanitizeContent(true)); err != nil {
		return err
	}
	if err := a.screen.Init(); err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	defer a.screen.Fini()
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	query := Query{Kind: kind, Namespace: o.Namespace}
	if !kind.Namespaced {
		query.Namespace = ""
	}
	a.model = NewModel(query, o.Now)
	a.model.Cluster = clean(strings.TrimPrefix(o.Config.Host, "https://"), cellBytes)
	a.model.SetKinds(a.kinds)
	a.watch(ctx, query)
	return a.loop(ctx)
}

func (a *app) loop(ctx context.Context) error {
	tick := time.NewTicker(time.Second) // ages grow
	defer tick.Stop()
	var wait <-chan time.Time
	for {
		a.model.Resize(a.screen.Size())
		draw(a.screen, a.model)
		changed := a.changed
		if wait != nil {
			changed = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case event, open := <-a.screen.EventQ():
			if !open {
				return errors.New("the terminal was closed")
			}
			switch event := event.(type) {
			case *tcell.EventResize:
				a.screen.Sync()
			case *tcell.EventError:
				return fmt.Errorf("the terminal: %w", event)
			case *tcell.EventKey:
				if name := keyName(event); name != "" {
					if action := a.model.Key(name); action.Verb == Quit {
						return nil
					} else if action.Verb != None {
						a.do(ctx, action)
					}
				}
			}
		case <-changed:
			a.look()
			wait = time.After(refresh)
		case <-wait:
			wait = nil
		case result := <-a.results:
			result()
		case <-tick.C:
		}
	}
}

// look takes over what changed.
func (a *app) look() {
	a.model.Update(a.feed.Snapshot())
	if a.log != nil && a.model.text != nil {
		a.log.take(a.model.text)
	}
}

// watch follows another list.
func (a *app) watch(ctx context.Context, query Query) {
	if a.stopFeed != nil {
		a.stopFeed()
	}
	a.endText()
	if query.Kind.Namespaced {
		a.last = query.Namespace
	}
	ctx, a.stopFeed = context.WithCancel(ctx)
	a.feed = newFeed(a.client, query, a.changed)
	go a.feed.run(ctx)
}

func (a *app) endText() {
	a.texts++
	a.log = nil
	if a.stopText != nil {
		a.stopText()
		a.stopText = nil
	}
}

// do carries out what a key asked for.
func (a *app) do(ctx context.Context, action Action) {
	switch action.Verb {
	case Open:
		if action.Text != "back" {
			a.model.Show(action.Query)
		}
		a.watch(ctx, action.Query)
	case Command:
		a.command(ctx, action.Text)
	case Enter:
		a.enter(ctx, action)
	case Logs:
		a.logs(ctx, action)
	case Describe:
		a.read(ctx, "describe", action, func(context.Context) (string, error) { return description(a.Config, action.Query.Kind, action.Row) })
	case YAML:
		a.read(ctx, "yaml", action, func(ctx context.Context) (string, error) {
			return objectYAML(ctx, a.client, action.Query.Kind, action.Row)
		})
	case Shell:
		a.shell(ctx, action)
	case Delete:
		a.model.Say("deleting "+action.Row.Name, false)
		a.ask(ctx, func(ctx context.Context) func() {
			err := remove(ctx, a.client, action.Query.Kind, action.Row)
			return func() {
				if err != nil {
					a.model.Say(err.Error(), true)
					return
				}
				a.model.Say(action.Row.Name+" is deleted", false)
			}
		})
	case Close:
		a.endText()
	}
}

// ask runs a request beside the screen, and then what it returns, in the loop.
func (a *app) ask(ctx context.Context, request func(ctx context.Context) func()) {
	go func() {
		asking, cancel := context.WithTimeout(ctx, requestTime)
		defer cancel()
		result := request(asking)
		select {
		case a.results <- result:
		case <-ctx.Done():
		}
	}()
}

// open shows a list of pods or of another kind.
func (a *app) open(ctx context.Context, query Query) {
	a.model.Show(query)
	a.watch(ctx, query)
}

// command opens the kind that was typed, in the namespace after it or the one that is shown. A kind that is not known may be new: the cluster
// is asked again.
func (a *app) command(ctx context.Context, text string) {
	words := strings.Fields(text)
	namespace := a.last
	if len(words) > 1 {
		namespace = words[1]
		if namespace == "all" {
			namespace = ""
		}
	}
	show := func(kind Kind) {
		query := Query{Kind: kind, Namespace: namespace}
		if !kind.Namespaced {
			query.Namespace = ""
		}
		a.open(ctx, query)
	}
	if kind, ok := find(a.kinds, words[0]); ok {
		show(kind)
		return
	}
	a.ask(ctx, func(ctx context.Context) func() {
		all, err := kinds(ctx, a.set.Discovery())
		return func() {
			if err != nil {
				a.model.Say(err.Error(), true)
				return
			}
			a.kinds = all
			a.model.SetKinds(all)
			kind, ok := find(all, words[0])
			if !ok {
				a.model.Say("the cluster serves no kind "+words[0]+" that can be listed", true)
				return
			}
			show(kind)
		}
	})
}

// enter shows the pods of an object, a pod's logs, or the object's description.
func (a *app) enter(ctx context.Context, action Action) {
	kind, r := action.Query.Kind, action.Row
	pods, _ := find(a.kinds, "pods")
	of := strings.TrimSuffix(kind.Resource, "s") + " " + clean(r.Name, cellBytes)
	switch {
	case kind.is("", "namespaces"):
		a.open(ctx, Query{Kind: pods, Namespace: r.Name})
	case kind.is("", "nodes"):
		a.open(ctx, Query{Kind: pods, Fields: fields.OneTermEqualSelector("spec.nodeName", r.Name).String(), Of: of})
	case kind.is("", "pods"):
		a.logs(ctx, action)
	case kind.selectsPods():
		a.endText()
		asked := a.texts
		a.ask(ctx, func(asking context.Context) func() {
			selector, err := selectorOf(asking, a.client, kind, r)
			return func() {
				switch {
				case asked != a.texts:
				case err != nil:
					a.model.Say(err.Error(), true)
				default:
					a.open(ctx, Query{Kind: pods, Namespace: r.Namespace, Labels: selector, Of: of})
				}
			}
		})
	default:
		action.Verb = Describe
		a.do(ctx, action)
	}
}

// read shows a text about an object.
func (a *app) read(ctx context.Context, what string, action Action, get func(ctx context.Context) (string, error)) {
	a.endText()
	asked := a.texts
	name := action.Row.Name
	if action.Row.Namespace != "" {
		name = action.Row.Namespace + "/" + name
	}
	a.model.Say(what+" "+name, false)
	a.ask(ctx, func(ctx context.Context) func() {
		text, err := get(ctx)
		all := lines(text, maxLines)
		return func() {
			if asked != a.texts {
				return
			}
			a.model.Say("", false)
			if err != nil {
				a.model.Say(err.Error(), true)
				return
			}
			t := &Text{Title: " " + what + " " + action.Query.Kind.Title() + " " + name}
			t.Append(all...)
			a.model.Read(t)
		}
	})
}

// mergedLogs shows and follows the logs of all pods of a workload.
func (a *app) mergedLogs(ctx context.Context, action Action) {
	a.endText()
	asked, r := a.texts, action.Row
	ctx, a.stopText = context.WithCancel(ctx)
	a.ask(ctx, func(asking context.Context) func() {
		selector, err := selectorOf(asking, a.client, action.Query.Kind, r)
		return func() {
			switch {
			case asked != a.texts:
				return
			case err != nil:
				a.model.Say(err.Error(), true)
				return
			}
			a.model.Read(&Text{Title: " logs of all pods of " + strings.TrimSuffix(action.Query.Kind.Resource, "s") + " " + r.Namespace + "/" + r.Name, Pod: r, Query: action.Query, follow: true})
			a.log = &stream{changed: a.changed}
			go (&merger{set: a.set, namespace: r.Namespace, selector: selector, prefix: r.Name + "-", stream: a.log}).run(ctx)
		}
	})
}

// logs shows and follows a log, or those of a workload's pods.
func (a *app) logs(ctx context.Context, action Action) {
	if action.Query.Kind.selectsPods() {
		if action.Previous {
			a.model.Say("logs from before a restart are of one pod; Enter shows the pods of a workload", true)
			return
		}
		a.mergedLogs(ctx, action)
		return
	}
	a.endText()
	asked, r := a.texts, action.Row
	ctx, a.stopText = context.WithCancel(ctx)
	a.model.Say("logs of "+r.Namespace+"/"+r.Name, false)
	a.ask(ctx, func(asking context.Context) func() {
		request, container, all, err := logRequest(asking, a.client, action.Query, r, action.Container, action.Previous)
		return func() {
			if asked != a.texts {
				return
			}
			a.model.Say("", false)
			if err != nil {
				a.model.Say(err.Error(), true)
				return
			}
			a.model.Read(&Text{
				Title: " logs of " + r.Namespace + "/" + r.Name, Pod: r, Query: action.Query,
				Container: container, Containers: all, Previous: action.Previous, follow: true,
			})
			a.log = &stream{changed: a.changed}
			go a.log.run(ctx, request)
		}
	})
}

// shell gives the terminal to a shell in a pod until it ends. It is a process of its own: reads of the terminal that it began end with it.
func (a *app) shell(ctx context.Context, action Action) {
	r := action.Row
	if _, err := action.Query.Kind.path(r.Namespace, r.Name); err != nil {
		a.model.Say(err.Error(), true)
		return
	}
	cmd, err := a.Shell(ctx, r.Namespace, r.Name)
	if err == nil {
		err = a.screen.Suspend()
	}
	if err != nil {
		a.model.Say("the shell: "+err.Error(), true)
		return
	}
	fmt.Printf("A shell in %s; it ends with exit.\r\n", r.Namespace+"/"+r.Name)
	said := &tail{to: os.Stderr}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, said
	err = cmd.Run()
	if err := a.screen.Resume(); err != nil {
		a.model.Say("the terminal: "+err.Error(), true)
		return
	}
	a.screen.Sync()
	if err != nil {
		a.model.Say(fmt.Sprintf("the shell: %v: %s", err, said.last), true)
	}
}

// tail passes on what a shell's program says, and keeps the end of it.
type tail struct {
	to   io.Writer
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	t.last = t.last[max(0, len(t.last)-cellBytes):]
	return t.to.Write(p)
}
