// Package s3 keeps backups in a bucket of Amazon S3, or of a service with its protocol (MinIO, Ceph, Garage and others).
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Config says which bucket, and as whom.
type Config struct {
	// Bucket is s3://BUCKET or s3://BUCKET/PREFIX.
	Bucket string
	// Endpoint is the service's URL; https://s3.amazonaws.com if it is empty. A URL with http is sent unencrypted.
	Endpoint string
	// Region is the bucket's; if it is empty the service is asked.
	Region string
	// Credentials is a file as the AWS programs have it (aws_access_key_id and aws_secret_access_key in the section default). If it is empty, the
	// environment is used (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), then ~/.aws/credentials, then the role of the machine.
	Credentials string
}

// Bucket is where backups are kept. Its methods may be called concurrently; what they send is bounded by their contexts only.
type Bucket struct {
	client       *minio.Client
	name, prefix string
}

// maxListed limits how many objects of a bucket are looked at.
const maxListed = 10_000

// New checks the configuration; it sends nothing.
func New(c Config) (*Bucket, error) {
	u, err := url.Parse(c.Bucket)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%q is not s3://BUCKET/PREFIX", c.Bucket)
	}
	if err := s3utils.CheckValidBucketNameStrict(u.Host); err != nil {
		return nil, fmt.Errorf("%q: %w", c.Bucket, err)
	}
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	}
	at, err := url.Parse(endpoint)
	if err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Host == "" || strings.Trim(at.Path, "/") != "" || at.RawQuery != "" || at.User != nil {
		return nil, fmt.Errorf("endpoint %q is not https://HOST or http://HOST, with or without a port", endpoint)
	}
	from := credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{}})
	if c.Credentials != "" {
		from = credentials.NewFileAWSCredentials(c.Credentials, "")
		if v, err := from.GetWithContext(nil); err != nil || v.AccessKeyID == "" || v.SecretAccessKey == "" {
			return nil, errors.Join(fmt.Errorf("%s has no aws_access_key_id and aws_secret_access_key in its section default", c.Credentials), err)
		}
	}
	client, err := minio.New(at.Host, &minio.Options{Creds: from, Secure: at.Scheme == "https", Region: c.Region, MaxRetries: 3})
	if err != nil {
		return nil, err
	}
	return &Bucket{client: client, name: u.Host, prefix: strings.Trim(u.Path, "/")}, nil
}

// String returns the bucket as in Config.
func (b *Bucket) String() string { return "s3://" + path.Join(b.name, b.prefix) }

func (b *Bucket) key(name string) string { return path.Join(b.prefix, name) }

// Put stores size bytes under a name. Until all are stored there is no object of the name, or the previous one.
func (b *Bucket) Put(ctx context.Context, name string, from io.Reader, size int64) error {
	_, err := b.client.PutObject(ctx, b.name, b.key(name), from, size, minio.PutObjectOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return fmt.Errorf("%s/%s: %w", b, name, err)
	}
	return nil
}

// List returns the names of objects directly below the prefix, in order.
func (b *Bucket) List(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the goroutine that lists
	below := b.prefix
	if below != "" {
		below += "/"
	}
	var names []string
	for object := range b.client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: below}) {
		if object.Err != nil {
			return nil, fmt.Errorf("list %s: %w", b, object.Err)
		}
		name := strings.TrimPrefix(object.Key, below)
		if strings.Contains(name, "/") {
			continue
		}
		if names = append(names, name); len(names) > maxListed {
			return nil, fmt.Errorf("list %s: it has more than %d objects: use a prefix of its own", b, maxListed)
		}
	}
	return names, nil
}

// Get returns the content of an object, which the caller closes.
func (b *Bucket) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	object, err := b.client.GetObject(ctx, b.name, b.key(name), minio.GetObjectOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", b, name, err)
	}
	return object, nil
}

// Remove removes an object. It is no error if there is none.
func (b *Bucket) Remove(ctx context.Context, name string) error {
	if err := b.client.RemoveObject(ctx, b.name, b.key(name), minio.RemoveObjectOptions{}); err != nil {
		return fmt.Errorf("remove %s/%s: %w", b, name, err)
	}
	return nil
}
