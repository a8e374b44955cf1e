package join

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/random"
)

// Token is a parsed join token.
type Token struct {
	Pin    string
	Role   pki.Role
	ID     string
	Secret string
}

var tokenPattern = regexp.MustCompile(`^K10([0-9a-f]{64})::(master|worker):([a-z0-9]{8})\.([a-z0-9]{32})$`)

func ParseToken(text string) (Token, error) {
	m := tokenPattern.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return Token{}, fmt.Errorf("%w: it is malformed (K10<64 hex digits>::<role>:<id>.<secret> is expected); copy it whole, or make a new one with `kontiki token create`", errclass.ErrToken)
	}
	return Token{Pin: m[1], Role: pki.Role(m[2]), ID: m[3], Secret: m[4]}, nil
}

func (p Token) RequireRole(role pki.Role) error {
	if p.Role != role {
		return fmt.Errorf("%w: it is for the role %s, this host joins as a %s; make one with `kontiki token create --role %s`", errclass.ErrToken, p.Role, role, role)
	}
	return nil
}

func (p Token) String() string {
	return fmt.Sprintf("K10%s::%s:%s.%s", p.Pin, p.Role, p.ID, p.Secret)
}

func NewToken(ca *pki.Authority, role pki.Role) (Token, error) {
	if role != pki.RoleMaster && role != pki.RoleWorker {
		return Token{}, fmt.Errorf("a join token is for the role master or worker, not %q", role)
	}
	return Token{Pin: ca.Pin(), Role: role, ID: random.Hex(4), Secret: random.Hex(16)}, nil
}

// ShortPin returns the part of a CA's pin that messages show.
func ShortPin(pin string) string {
	if _, err := hex.DecodeString(pin); err != nil || len(pin) < 12 {
		return pin
	}
	return pin[:12]
}
