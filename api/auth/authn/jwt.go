package authn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
)

// Times of reloading the file.
const (
	defaultPoll = 5 * time.Second
	// reloadTimeout is how long a changed file may wait for the keys of all its issuers before it is given up until the next attempt.
	reloadTimeout = time.Minute
)

// Config says whose tokens are valid.
type Config struct {
	// Initial is the configuration at start; File, if it is not empty, is where it was read from, with content Data. The file is
	// followed.
	Initial *apiserver.AuthenticationConfiguration
	File    string
	Data    []byte
	// SigningAlgorithms are those that tokens may have; none means RS256.
	SigningAlgorithms []string
	// Disallowed are issuers that cannot be configured: the API server's own.
	Disallowed []string
	// Audiences are the API server's own: the tokens of issuers are for no others.
	Audiences authenticator.Audiences
	// Server is the name of the API server in metrics.
	Server string
	Log    *slog.Logger
	// KeyInterval is how long the keys of an issuer are not fetched again; 0 means KeyInterval.
	KeyInterval time.Duration
	// Poll is how often the file is read; 0 means the default.
	Poll time.Duration
}

// JWT authenticates the tokens of OpenID Connect issuers. It is safe for concurrent use.
type JWT struct {
	Metrics  *Metrics
	config   Config
	compiler authenticationcel.Compiler
	current  atomic.Pointer[issuers]
}

// issuers are those of one version of the configuration, by URL.
type issuers struct {
	byURL map[string]*issuer
}

// New returns an authenticator for a valid configuration.
func New(c Config) (*JWT, error) {
	if c.KeyInterval == 0 {
		c.KeyInterval = KeyInterval
	}
	if c.Poll == 0 {
		c.Poll = defaultPoll
	}
	j := &JWT{config: c, compiler: authenticationcel.NewDefaultCompiler(), Metrics: newMetrics(c.Server)}
	if err := validate(j.compiler, c.Initial, c.Disallowed); err != nil {
		return nil, err
	}
	first, err := j.build(c.Initial)
	if err != nil {
		return nil, err
	}
	j.current.Store(first)
	j.Metrics.configured(c.Data)
	return j, nil
}

func (j *JWT) build(config *apiserver.AuthenticationConfiguration) (*issuers, error) {
	set := &issuers{byURL: map[string]*issuer{}}
	for _, jwt := range config.JWT {
		url := jwt.Issuer.URL
		failed := "" // why the last fetch failed, so that the log tells of changes only
		one, err := newIssuer(jwt, &j.config, j.compiler, func(err error) {
			j.Metrics.fetched(url, err)
			switch {
			case err != nil && err.Error() != failed:
				failed = err.Error()
				j.config.Log.Warn("the keys of an issuer of tokens cannot be fetched", "part", "api", "issuer", url, "error", err)
			case err == nil && failed != "":
				failed = ""
				j.config.Log.Info("the keys of an issuer of tokens were fetched", "part", "api", "issuer", url)
			}
		})
		if err != nil {
			return nil, err
		}
		set.byURL[url] = one
	}
	return set, nil
}

// AuthenticateToken implements authenticator.Token.
func (j *JWT) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	set := j.current.Load()
	if len(set.byURL) == 0 {
		return nil, false, nil
	}
	claims, ok := peek(token)
	if !ok {
		return nil, false, nil
	}
	from, ok := set.byURL[claims.Issuer]
	if !ok {
		return nil, false, nil
	}
	audiences, asked := authenticator.AudiencesFrom(ctx)
	if asked {
		if audiences = j.config.Audiences.Intersect(audiences); len(audiences) == 0 {
			return nil, false, nil
		}
	}
	start := time.Now()
	response, err := from.authenticate(ctx, token, claims)
	j.Metrics.authenticated(claims.Issuer, time.Since(start), err)
	if err != nil {
		return nil, false, err
	}
	response.Audiences = audiences
	return response, true, nil
}

// Run fetches the issuers' keys and follows the file until the context ends.
func (j *JWT) Run(ctx context.Context) error {
	current := start(ctx, j.current.Load())
	defer func() { current.stop() }()
	if j.config.File == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	seen := j.config.Data
	ticker := time.NewTicker(j.config.Poll)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		data, err := read(j.config.File)
		if err == nil && bytes.Equal(data, seen) {
			continue
		}
		var next *running
		if err == nil {
			next, err = j.reload(ctx, data)
		}
		if ctx.Err() != nil {
			next.stop()
			return ctx.Err()
		}
		if err != nil {
			j.Metrics.reloaded(err, nil)
			j.config.Log.Error("the authentication configuration was not reloaded: the one before stays in use", "part", "api", "file", j.config.File, "error", err)
			if errors.Is(err, errNeverValid) {
				seen = data
			}
			continue
		}
		j.current.Store(next.issuers)
		current.stop()
		current, seen = next, data
		j.Metrics.reloaded(nil, data)
		j.config.Log.Info("reloaded authentication config", "part", "api", "file", j.config.File)
	}
}

// errNeverValid is the class of errors of a file that trying again cannot mend.
var errNeverValid = errors.New("authentication configuration")

// reload returns the issuers of a changed file, when the keys of all of them are there.
func (j *JWT) reload(ctx context.Context, data []byte) (*running, error) {
	config, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNeverValid, err)
	}
	if err := validate(j.compiler, config, j.config.Disallowed); err != nil {
		return nil, fmt.Errorf("%w: %w", errNeverValid, err)
	}
	if !reflect.DeepEqual(config.Anonymous, j.config.Initial.Anonymous) {
		return nil, fmt.Errorf("%w: %w", errNeverValid, field.Forbidden(field.NewPath("anonymous"), "changed from initial configuration file"))
	}
	set, err := j.build(config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNeverValid, err)
	}
	next := start(ctx, set)
	limited, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	for url, issuer := range set.byURL {
		if err := issuer.keys.wait(limited); err != nil {
			next.stop()
			return nil, fmt.Errorf("oidc: authenticator for issuer %q is not healthy: %w", url, err)
		}
	}
	return next, nil
}

// running are issuers whose keys are being fetched.
type running struct {
	issuers *issuers
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

func start(ctx context.Context, set *issuers) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{issuers: set, cancel: cancel}
	for _, issuer := range set.byURL {
		r.done.Go(func() { issuer.keys.run(ctx) })
	}
	return r
}

// stop ends fetching, and returns when it has ended.
func (r *running) stop() {
	if r == nil {
		return
	}
	r.cancel()
	r.done.Wait()
}
