package admin

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/node/server"
)

func TestImagesOfAllNodesArePrinted(t *testing.T) {
	app := server.LocalImage{ID: "sha256:0123456789abcdef", Tags: []string{"docker.io/team/app:2", "docker.io/team/app:1"}, Size: 3 << 20}
	tools := server.LocalImage{ID: "sha256:fedcba9876543210", Digests: []string{"docker.io/team/tools@sha256:aa"}, Size: 500, Imported: true}
	var out bytes.Buffer
	if err := printImages(&out, map[string][]server.LocalImage{"w2": {app}, "w1": {tools, app}}); err != nil {
		t.Fatal(err)
	}
	want := `IMAGE                                      ID            SIZE     ORIGIN    NODES
docker.io/team/app:1,docker.io/team/app:2  0123456789ab  3.0 MiB  pulled    all 2
docker.io/team/tools@sha256:aa             fedcba987654  500 B    imported  w1
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestEachNodeIsReported(t *testing.T) {
	var out bytes.Buffer
	err := eachNode([]string{"w1", "w2"}, &out, 2, "pull on", func(node string) (string, error) {
		if node == "w2" {
			return "", errors.New("no such image")
		}
		return "pulled app (3 MiB)", nil
	})
	if err == nil || err.Error() != "pull on w2: no such image" {
		t.Errorf("error %v", err)
	}
	for _, line := range []string{"w1: pulled app (3 MiB) in 0.", "w2: failed\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("%q is not in %q", line, out.String())
		}
	}
}
