package authn

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"golang.org/x/sync/singleflight"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/kontiki/kontiki/internal/contain"
)

// cacheSize limits the number of answers in a cache. Refusals have a cache of their own, so that strangers do not displace users.
const cacheSize = 4096

// cache remembers the answers of an authenticator, but no errors, and asks it once for the same token at a time.
type cache struct {
	asked          authenticator.Token
	ttl            time.Duration
	valid, refused *utilcache.LRUExpireCache
	running        singleflight.Group
	secret         [32]byte
}

func newCache(asked authenticator.Token, ttl time.Duration) *cache {
	c := &cache{asked: asked, ttl: ttl, valid: utilcache.NewLRUExpireCache(cacheSize), refused: utilcache.NewLRUExpireCache(cacheSize)}
	rand.Read(c.secret[:])
	return c
}

// AuthenticateToken implements authenticator.Token.
func (c *cache) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	audiences, limited := authenticator.AudiencesFrom(ctx)
	key := c.key(token, audiences)
	if response, known := c.get(key); known {
		return response, response != nil, nil
	}
	answer := c.running.DoChan(key, func() (any, error) {
		if response, known := c.get(key); known { // since a moment ago
			return response, nil
		}
		// Several requests may wait for the answer, so it does not end with the first of them.
		ctx, cancel := context.WithTimeout(context.Background(), webhookTime)
		defer cancel()
		if limited {
			ctx = authenticator.WithAudiences(ctx, audiences)
		}
		var response *authenticator.Response
		err := contain.Run(func() (err error) {
			response, _, err = c.asked.AuthenticateToken(ctx, token)
			return err
		})
		switch {
		case err != nil || c.ttl == 0:
		case response == nil:
			c.refused.Add(key, struct{}{}, c.ttl)
		default:
			c.valid.Add(key, response, c.ttl)
		}
		return response, err
	})
	select {
	case result := <-answer:
		response, _ := result.Val.(*authenticator.Response)
		return response, response != nil && result.Err == nil, result.Err
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// get returns a remembered answer, which is nil for a refusal.
func (c *cache) get(key string) (response *authenticator.Response, known bool) {
	if response, ok := c.valid.Get(key); ok {
		return response.(*authenticator.Response), true
	}
	_, known = c.refused.Get(key)
	return nil, known
}

// key identifies a token and audiences without revealing the token.
func (c *cache) key(token string, audiences []string) string {
	sum := hmac.New(sha256.New, c.secret[:])
	for _, text := range append([]string{token}, audiences...) {
		binary.Write(sum, binary.BigEndian, uint64(len(text)))
		sum.Write([]byte(text))
	}
	return string(sum.Sum(nil))
}
