package cluster

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
)

// tokenPrefix is the prefix of the keys of join tokens, which end with their ids.
const tokenPrefix = kv.OwnPrefix + "tokens/"

// Token is a join token without its secret.
type Token struct {
	ID          string    `json:"id"`
	Role        pki.Role  `json:"role"`
	Description string    `json:"description,omitempty"`
	CreatedAt   time.Time `json:"createdAt"`
	// ExpiresAt is zero for a token that does not expire.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

type storedToken struct {
	Token
	SecretHash []byte `json:"secretHash"`
}

// storedOf returns the stored form of a token.
func storedOf(p join.Token, ttl time.Duration, description string) storedToken {
	now := time.Now().UTC().Truncate(time.Second)
	hash := sha256.Sum256([]byte(p.Secret)) // a plain hash suffices, as the secret has 128 random bits
	t := storedToken{SecretHash: hash[:], Token: Token{ID: p.ID, Role: p.Role, Description: description, CreatedAt: now}}
	if ttl > 0 {
		t.ExpiresAt = now.Add(ttl)
	}
	return t
}

func (c *Cluster) storeToken(ctx context.Context, t storedToken) (kv.Result, error) {
	value, err := json.Marshal(t)
	if err != nil {
		return kv.Result{}, err
	}
	return c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: tokenPrefix + t.ID, Value: value, Cond: kv.Absent}}})
}

// CreateToken creates a join token for a role and returns its text, which cannot be shown again: only a hash of its secret is stored. A ttl
// of 0 means that it does not expire.
func (c *Cluster) CreateToken(ctx context.Context, role pki.Role, ttl time.Duration, description string) (string, error) {
	if ttl < 0 {
		return "", fmt.Errorf("a join token's time to live cannot be %s", ttl)
	}
	t, err := join.NewToken(c.identity.Now().CA, role)
	if err != nil {
		return "", err
	}
	result, err := c.storeToken(ctx, storedOf(t, ttl, description))
	if err != nil {
		return "", fmt.Errorf("create a join token: %w", err)
	}
	if result.Failed != nil {
		return "", fmt.Errorf("create a join token: %w", result.Failed)
	}
	return t.String(), nil
}

// Tokens returns the join tokens, including expired ones.
func (c *Cluster) Tokens(ctx context.Context) ([]Token, error) {
	view, err := c.Consistent(ctx)
	if err != nil {
		return nil, fmt.Errorf("list join tokens: %w", err)
	}
	var tokens []Token
	view.Range(tokenPrefix, kv.PrefixEnd(tokenPrefix), func(v *kv.Version) bool {
		var t storedToken
		if err = json.Unmarshal(v.Value, &t); err != nil {
			err = fmt.Errorf("list join tokens: %s: %w", v.Key, err)
			return false
		}
		tokens = append(tokens, t.Token)
		return true
	})
	return tokens, err
}

// RevokeToken deletes a join token, given by its id or its whole text. Errors: errclass.ErrTokenNotFound.
func (c *Cluster) RevokeToken(ctx context.Context, id string) error {
	if t, err := join.ParseToken(id); err == nil {
		id = t.ID
	}
	result, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: tokenPrefix + id, Delete: true, Cond: kv.Exists}}})
	if err != nil {
		return fmt.Errorf("revoke join token %s: %w", id, err)
	}
	if result.Failed != nil {
		return fmt.Errorf("revoke join token %s: %w", id, errclass.ErrTokenNotFound)
	}
	return nil
}

// Expired tokens are kept for a while, so that a host that uses one gets an error that says so.
const (
	expiredTokensKept = 24 * time.Hour
	tokenSweep        = time.Hour
)

// sweepTokens is the leader's duty that deletes tokens that expired long ago.
func (c *Cluster) sweepTokens(ctx context.Context) error {
	pause.Every(ctx, tokenSweep, func() {
		if err := c.deleteExpiredTokens(ctx, time.Now().Add(-expiredTokensKept)); err != nil && ctx.Err() == nil {
			c.log.Warn("expired join tokens could not be deleted", "error", err)
		}
	})
	return nil
}

func (c *Cluster) deleteExpiredTokens(ctx context.Context, before time.Time) error {
	tokens, err := c.Tokens(ctx)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.ExpiresAt.IsZero() || t.ExpiresAt.After(before) {
			continue
		}
		if err := c.RevokeToken(ctx, t.ID); err != nil && !errors.Is(err, errclass.ErrTokenNotFound) {
			return err
		}
	}
	return nil
}

// checkToken returns an error if a token does not admit its holder to a role at present. It returns the consistent view that it checked.
func (c *Cluster) checkToken(ctx context.Context, text string, role pki.Role) (kv.View, error) {
	t, err := join.ParseToken(text)
	if err != nil {
		return nil, err
	}
	switch id := c.identity.Now(); {
	case id.Accepts(t.Pin):
	case id.Owns(t.Pin):
		return nil, fmt.Errorf("%w: it is from before the cluster's CA was rotated; make a new one with `kontiki token create --role %s`", errclass.ErrToken, role)
	default:
		return nil, fmt.Errorf("%w: it is for another cluster", errclass.ErrToken)
	}
	if err := t.RequireRole(role); err != nil {
		return nil, err
	}
	if err := c.initialTokensStored(ctx); err != nil {
		return nil, err
	}
	view, err := c.Consistent(ctx)
	if err != nil {
		return nil, err
	}
	v, ok := view.Get(tokenPrefix + t.ID)
	if !ok {
		return nil, fmt.Errorf("%w: %s is not known, it may have been revoked; make a new one with `kontiki token create --role %s`", errclass.ErrToken, t.ID, role)
	}
	var stored storedToken
	if err := json.Unmarshal(v.Value, &stored); err != nil {
		return nil, fmt.Errorf("join token %s: %w", t.ID, err)
	}
	hash := sha256.Sum256([]byte(t.Secret))
	switch {
	case subtle.ConstantTimeCompare(hash[:], stored.SecretHash) != 1:
		return nil, fmt.Errorf("%w: its secret is wrong; copy it whole, or make a new one with `kontiki token create --role %s`", errclass.ErrToken, role)
	case stored.Role != role:
		t.Role = stored.Role
		return nil, t.RequireRole(role)
	case !stored.ExpiresAt.IsZero() && time.Now().After(stored.ExpiresAt):
		return nil, fmt.Errorf("%w: it expired at %s; make a new one with `kontiki token create --role %s`", errclass.ErrToken, stored.ExpiresAt.Format(time.RFC3339), role)
	}
	return view, nil
}
