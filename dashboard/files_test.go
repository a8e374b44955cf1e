package dashboard

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"testing"
)

func TestThePageIsServed(t *testing.T) {
	p := newPage(t)
	nonce := regexp.MustCompile(`'nonce-([A-Z0-9]+)'`)
	seen := map[string]bool{}
	for _, path := range []string{"/ui/", "/ui/index.html", "/ui/list/pods", "/ui/object/pods/a/b%2Fc/logs"} {
		r := p.do(request("GET", path, ""))
		body, _ := io.ReadAll(r.Body)
		policy := r.Header.Get("Content-Security-Policy")
		match := nonce.FindStringSubmatch(policy)
		if r.StatusCode != 200 || match == nil || !strings.Contains(string(body), match[1]) || strings.Contains(string(body), nonceMark) {
			t.Errorf("%s: %s, policy %q", path, r.Status, policy)
			continue
		}
		if seen[match[1]] {
			t.Errorf("%s: the nonce is not new", path)
		}
		seen[match[1]] = true
		for _, part := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy lacks %s", path, part)
			}
		}
		if r.Header.Get("X-Frame-Options") != "DENY" || r.Header.Get("X-Content-Type-Options") != "nosniff" || r.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers are missing: %v", path, r.Header)
		}
		if strings.Contains(string(body), "<style") || regexp.MustCompile(`<script[^>]*>[^<]`).Match(body) || regexp.MustCompile(`\son[a-z]+=`).Match(body) {
			t.Errorf("%s: the page has inline scripts or styles", path)
		}
	}
	if r := p.do(request("GET", "/ui", "")); r.StatusCode != 301 || r.Header.Get("Location") != "/ui/" {
		t.Errorf("/ui: %s to %q", r.Status, r.Header.Get("Location"))
	}
	for _, path := range []string{"/ui/assets/none.js", "/ui/assets/../index.html"} {
		if r := p.do(request("GET", path, "")); r.StatusCode == 200 {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
	if r := p.do(request("POST", "/ui/list", "")); r.StatusCode != 405 {
		t.Errorf("POST of the page: %s", r.Status)
	}
}

func TestAssetsAreCachedAndCompressed(t *testing.T) {
	p := newPage(t)
	tried := 0
	err := fs.WalkDir(built, "dist/assets", func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		tried++
		path := "/ui/" + strings.TrimPrefix(at, "dist/")
		plain := p.do(request("GET", path, ""))
		want, _ := fs.ReadFile(built, at)
		if body, _ := io.ReadAll(plain.Body); !bytes.Equal(body, want) || !strings.Contains(plain.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d bytes of %d, %q", path, len(body), len(want), plain.Header.Get("Cache-Control"))
		}
		if zipped := p.do(request("GET", path, "", "Accept-Encoding", "br, gzip;q=0.8")); zipped.Header.Get("Content-Encoding") == "gzip" {
			reader, err := gzip.NewReader(zipped.Body)
			if err != nil {
				return err
			}
			if body, _ := io.ReadAll(reader); !bytes.Equal(body, want) {
				t.Errorf("%s: the compressed form differs", path)
			}
		} else if len(want) > 4096 {
			t.Errorf("%s: %d bytes are not compressed", path, len(want))
		}
		if p.do(request("GET", path, "", "Accept-Encoding", "gzip;q=0")).Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: compressed for a client that refuses it", path)
		}
		if again := p.do(request("GET", path, "", "If-None-Match", plain.Header.Get("ETag"))); again.StatusCode != 304 {
			t.Errorf("%s: %s although it is unchanged", path, again.Status)
		}
		return nil
	})
	if err != nil || tried < 5 {
		t.Errorf("%d files, %v", tried, err)
	}
}

// TestTheFirstLoadIsSmall bounds what a browser needs before the first page shows: the page, what it names, and the largest page that is loaded first.
func TestTheFirstLoadIsSmall(t *testing.T) {
	const budget = 80 << 10
	index, err := fs.ReadFile(built, "dist/"+indexFile)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`assets/[\w.-]+`).FindAllString(string(index), -1) {
		names[m] = true
	}
	all, err := fs.Glob(built, "dist/assets/*")
	if err != nil {
		t.Fatal(err)
	}
	// The sign-in, the cluster's page, and what they import.
	for queue := []string{"SignIn-", "Overview-", "kubeconfig-"}; len(queue) > 0; queue = queue[1:] {
		for _, at := range all {
			if name := strings.TrimPrefix(at, "dist/"); strings.HasPrefix(name, assets+queue[0]) && !names[name] {
				names[name] = true
			}
		}
	}
	imports := regexp.MustCompile(`(?:from|import)\s*"\./([\w.-]+\.js)"`)
	for grew := true; grew; {
		grew = false
		for name := range names {
			data, err := fs.ReadFile(built, "dist/"+name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range imports.FindAllSubmatch(data, -1) {
				if in := assets + string(m[1]); !names[in] {
					names[in], grew = true, true
				}
			}
		}
	}
	total := len(index)
	for name := range names {
		data, err := fs.ReadFile(built, "dist/"+name)
		if err != nil {
			t.Fatal(err)
		}
		zipped, err := compress(data)
		if err != nil {
			t.Fatal(err)
		}
		total += min(len(zipped), len(data))
	}
	t.Logf("%d files, %d bytes compressed", len(names), total)
	if total > budget || len(names) < 6 {
		t.Errorf("the first load is %d bytes in %d files, more than %d", total, len(names), budget)
	}
}
