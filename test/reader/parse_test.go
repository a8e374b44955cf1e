package reader_test

import (
	"strings"
	"testing"
)

func TestBlocksOfADocument(t *testing.T) {
	const text = `# A document

<!-- prepare: host-1: power_off -->
<!-- prepare: pod -->
'''sh
kontiki status        # exits with 2 if something does
host-2# kontiki cluster status \
  -o json             # repeat until it exits with 0
kontiki kubectl create -f - <<< '{"a":
  "b"}'
# a comment
'''

'''yaml file=host-3:/etc/a.yaml
a: b
'''

'''console
$ kontiki kubectl get pods
NAME   READY
...
$ kontiki kubectl get pod web
Error from server (NotFound): pods "web" not found
$ kontiki status  # exits with 2
'''

'''sh no-run: it takes two hours
make conformance
'''
`
	found, err := blocks(strings.ReplaceAll(text, "'''", "```"))
	if err != nil || len(found) != 4 {
		t.Fatalf("%d blocks, %v", len(found), err)
	}
	shell, file, console, skipped := found[0], found[1], found[2], found[3]
	if len(shell.prepare) != 2 || shell.prepare[0] != (preparation{"host-1", "power_off"}) || shell.prepare[1] != (preparation{"", "pod"}) {
		t.Errorf("prepares %v", shell.prepare)
	}
	if len(shell.steps) != 3 {
		t.Fatalf("steps %+v", shell.steps)
	}
	if s := shell.steps[0]; s.line != 6 || s.exits != 0 || s.may != 2 || s.repeat || s.host != "" {
		t.Errorf("step %+v", s)
	}
	if s := shell.steps[1]; s.host != "host-2" || !s.repeat || s.exits != 0 || !strings.HasSuffix(s.command, "exits with 0") {
		t.Errorf("step %+v", s)
	}
	if s := shell.steps[2]; !strings.HasSuffix(s.command, "\n  \"b\"}'") {
		t.Errorf("step %+v", s)
	}
	if file.file != "/etc/a.yaml" || file.fileHost != "host-3" || file.text != "a: b\n" || file.runs() {
		t.Errorf("file %+v", file)
	}
	if len(console.steps) != 3 || len(console.steps[0].want) != 2 || console.steps[0].exits != 0 || console.steps[1].exits != 1 || console.steps[2].exits != 2 {
		t.Errorf("console %+v", console.steps)
	}
	if skipped.noRun != "it takes two hours" || skipped.runs() || skipped.steps != nil {
		t.Errorf("skipped %+v", skipped)
	}
}

func TestBadBlocks(t *testing.T) {
	for _, text := range []string{
		"'''\nkontiki status\n'''\n",                                     // it does not say what it is
		"'''sh no-run: \nkontiki status\n'''\n",                          // no reason
		"'''sh norun: a reason\nkontiki status\n'''\n",                   // not known
		"'''yaml no-run: a reason\na: b\n'''\n",                          // not a shell's
		"'''text\n$ kontiki status\n'''\n",                               // commands under another name
		"'''text\nhost-1# kontiki status\n'''\n",                         // the same
		"'''sh\nkontiki kubectl create -f - <<< 'a\n'''\n",               // a command that does not end
		"'''console\nall is well\n'''\n",                                 // output without a command
		"'''sh\nkontiki status\n",                                        // no end
		"<!-- prepare: pod -->\n",                                        // no block
		"'''console file=a\n$ kontiki status\n'''\n",                     // commands are not a file
		"'''sh\nkontiki status # exits with 99999999999999999999\n'''\n", // not a code
	} {
		if found, err := blocks(strings.ReplaceAll(text, "'''", "```")); err == nil {
			t.Errorf("%q is accepted: %+v", text, found)
		}
	}
}

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		want, got string
		same      bool
	}{
		{"NAME   READY   AGE\nweb-576cccbf67-5vfxl   1/1   3s", "NAME  READY  AGE\nweb-76d9d577b5-2ph4z  1/1  2m5s", true},
		{"web-576cccbf67-5vfxl   1/1   3s", "web-76d9d577b5-2ph4z  0/1  3s", false},
		{"web   4/4     4            4           6s", "web   4/4     3            4           6s", false},
		{"saved revision 608 (361 objects) to a", "saved revision 7 (12 objects) to a", true},
		{"saved revision 608 (361 objects) to a", "saved revision 7 (12 objects) to b", false},
		{"...\nb", "a\na\nb", true},
		{"a\n...\nc", "a\nc", true},
		{"a\n...\nc", "a\nb", false},
		{"a\n...", "a\nb\nc", true},
		{"a", "a\nb", false},
		{"a\nb", "a", false},
		{"Error: ... not found", "Error: pods \"a\" not found", true},
		{"Error: ... not found", "Error: pods \"a\" found", false},
		{"cpu  40m (2%)", "cpu 20m (1%)", true},
		{"web  NodePort  10.96.94.110  <none>  80:30080/TCP  75s", "web  NodePort  10.96.1.2  <none>  80:30080/TCP  1s", true},
		{"deployment \"web\" successfully rolled out", "deployment \"web\" failed", false},
	} {
		if got := compare(filled(c.want), filled(c.got), map[string]string{}); got != c.same {
			t.Errorf("%q and %q: %v, not %v", c.want, c.got, got, c.same)
		}
	}
}

// TestReadersReplaceWords: what a document has only as an example becomes what is here.
func TestReadersReplaceWords(t *testing.T) {
	r := &reader{names: map[string]string{}, words: map[string]string{"POD": "web-1", "FILE": "saved"}, token: "K10abc"}
	if !compare(filled("web-576cccbf67-5vfxl 1/1"), filled("web-76d9d577b5-2ph4z 1/1"), r.names) {
		t.Fatal("the lines differ")
	}
	for typed, want := range map[string]string{
		"kontiki kubectl delete pod web-576cccbf67-5vfxl": "kontiki kubectl delete pod web-76d9d577b5-2ph4z",
		"kontiki why POD -n shop":                         "kontiki why web-1 -n shop",
		"kontiki image import FILE.tar":                   "kontiki image import saved.tar",
		"echo $FILE PODS":                                 "echo $FILE PODS",
		"kontiki agent --join a:6444 --token K10...":      "kontiki agent --join a:6444 --token K10abc",
	} {
		if got := r.typed(typed); got != want {
			t.Errorf("%q became %q, not %q", typed, got, want)
		}
	}
}
