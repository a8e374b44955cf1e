package s3

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/kontiki/kontiki/cluster/backup/s3/s3test"
)

// bucket returns a bucket of a server of the test, whose certificate is trusted.
func bucket(t *testing.T, s *s3test.Server, secret string) *Bucket {
	t.Helper()
	client, err := minio.New(strings.TrimPrefix(s.URL, "https://"), &minio.Options{Creds: credentials.NewStaticV4(s3test.AccessKey, secret, ""), Secure: true,
		Region: s3test.Region, Transport: s.Client().Transport, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	return &Bucket{client: client, name: s3test.Bucket, prefix: "cluster/a"}
}

func TestObjectsAreStoredListedReadAndRemoved(t *testing.T) {
	s := s3test.New(t)
	b := bucket(t, s, s3test.SecretKey)
	ctx := context.Background()
	small, large := []byte("a backup"), bytes.Repeat([]byte("0123456789abcdef"), 20<<16) // the large one is sent in parts
	for name, data := range map[string][]byte{"1": small, "2": large} {
		if err := b.Put(ctx, name, bytes.NewReader(data), int64(len(data))); err != nil {
			t.Fatal(err)
		}
		if got := s.Object("cluster/a/" + name); !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes are stored, not %d", name, len(got), len(data))
		}
		r, err := b.Get(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes are read, %v", name, len(got), err)
		}
		r.Close()
	}
	if names, err := b.List(ctx); err != nil || strings.Join(names, " ") != "1 2" {
		t.Errorf("%q, %v", names, err)
	}
	if err := b.Remove(ctx, "1"); err != nil {
		t.Error(err)
	}
	if names, err := b.List(ctx); err != nil || strings.Join(names, " ") != "2" {
		t.Errorf("%q, %v", names, err)
	}
	if err := bucket(t, s, "wrong").Put(ctx, "3", bytes.NewReader(small), int64(len(small))); err == nil || !strings.Contains(err.Error(), "s3://backups/cluster/a/3") {
		t.Errorf("with a wrong secret: %v", err)
	}
}

func TestConfigurations(t *testing.T) {
	file := s3test.Credentials(t)
	for name, c := range map[string]struct {
		Config
		want string
	}{
		"good":           {Config{Bucket: "s3://backups/a/b", Endpoint: "https://minio.example:9000", Credentials: file}, ""},
		"no scheme":      {Config{Bucket: "backups"}, "is not s3://BUCKET/PREFIX"},
		"no bucket":      {Config{Bucket: "s3:///a"}, "is not s3://BUCKET/PREFIX"},
		"a bad bucket":   {Config{Bucket: "s3://B_/a"}, "s3://B_/a"},
		"endpoint":       {Config{Bucket: "s3://backups", Endpoint: "minio.example:9000"}, "is not https://HOST"},
		"endpoint path":  {Config{Bucket: "s3://backups", Endpoint: "https://minio.example/x"}, "is not https://HOST"},
		"no credentials": {Config{Bucket: "s3://backups", Credentials: file + ".missing"}, "has no aws_access_key_id"},
	} {
		b, err := New(c.Config)
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err == nil && b.String() != c.Bucket {
			t.Errorf("%s: %s", name, b)
		}
	}
}
