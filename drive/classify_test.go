package drive

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	long := "1 validation error detected: Value 'x' at 'name' failed to satisfy constraint: Member must have length less than or equal to 280"
	tests := []struct {
		name   string
		status int
		body   string
		call   call
		class  class
		kind   error
		nodeID string
	}{
		{"created", 201, `{}`, call{}, classFine, nil, ""},
		{"token expired", 401, `{"message":"Token has expired"}`, call{}, classAuth, ErrUnavailable, ""},
		{"empty 401", 401, ``, call{}, classAuth, ErrUnavailable, ""},
		{"wrapped 401", 400, `{"message":"com.amazon.clouddrive.client.exceptions.UnauthourizedAccessException: HTTP status code=[401] RequestId=[x] Token has expired"}`, call{}, classAuth, ErrUnavailable, ""},
		{"sporadic 403", 403, `{"message":"Authorization header requires 'Credential' parameter. Authorization=Bearer"}`, call{}, classAuth, ErrUnavailable, ""},
		{"403", 403, `{"message":"Insufficient permissions granted for operation: purgeNode"}`, call{}, classFinal, ErrForbidden, ""},
		{"quota", 403, `{"code":"NO_ACTIVE_SUBSCRIPTION_FOUND","message":"File size exceeds account allowance."}`, call{}, classFinal, ErrQuota, ""},
		{"name taken", 409, `{"logref":"x","message":"Node with the name a already exists under parentId p conflicting NodeId: Zy","code":"NAME_ALREADY_EXISTS","info":{"nodeId":"Zy_-1"}}`, call{}, classFinal, ErrNameExists, "Zy_-1"},
		{"name taken, id in the text", 409, `{"message":"Node with the name a already exists under parentId p conflicting NodeId: ZyXwVuTsRqPoNmLkJiHgFe","code":"","info":"odd"}`, call{}, classFinal, ErrNameExists, "ZyXwVuTsRqPoNmLkJiHgFe"},
		{"duplicate", 409, `{"code":"MD5_DUPLICATE","info":{"nodeId":"d"}}`, call{}, classFinal, ErrDuplicate, "d"},
		{"conflict", 409, `{}`, call{}, classFinal, ErrConflict, ""},
		{"page token", 400, `{"message":"Next token is expired"}`, call{}, classFinal, ErrTokenExpired, ""},
		{"name too long", 400, `{"message":"` + long + `"}`, call{}, classFinal, ErrNameTooLong, ""},
		{"unknown parent", 400, `{"code":"","message":"One of the parentId doesn't exists"}`, call{}, classFinal, ErrBadParent, ""},
		{"trashed parent", 400, `{"message":"A node cannot be added to trashed parent"}`, call{}, classFinal, ErrBadParent, ""},
		{"checkpoint", 400, `{"message":"bad"}`, call{checkpoint: true}, classFinal, ErrCheckpoint, ""},
		{"wrapped 401 beats checkpoint", 400, `{"message":"Token has expired"}`, call{checkpoint: true}, classAuth, ErrUnavailable, ""},
		{"broken upload", 400, `{"message":"Cannot complete upload"}`, call{shape: shapeUpload}, classTrouble, ErrUnavailable, ""},
		{"not an upload", 400, `{"message":"Cannot complete upload"}`, call{}, classFinal, ErrInvalid, ""},
		{"filter", 400, `{"message":"Invalid filter: x"}`, call{}, classFinal, ErrInvalid, ""},
		{"400 without a body", 400, ``, call{}, classFinal, ErrInvalid, ""},
		{"404", 404, ``, call{}, classFinal, ErrNotFound, ""},
		{"404 of a parent", 404, `{"message":"x"}`, call{creates: true}, classFinal, ErrBadParent, ""},
		{"404 of a route", 404, `<UnknownOperationException/>`, call{}, classFinal, ErrProtocol, ""},
		{"404 behind a redirect", 404, `<Error><Code>NoSuchKey</Code></Error>`, call{redirected: true}, classTrouble, ErrUnavailable, ""},
		{"403 behind a redirect", 403, `<Error><Code>AccessDenied</Code></Error>`, call{redirected: true}, classTrouble, ErrUnavailable, ""},
		{"405", 405, ``, call{}, classFinal, ErrInvalid, ""},
		{"408", 408, `REQUEST_TIMEOUT`, call{}, classTrouble, ErrUnavailable, ""},
		{"410", 410, ``, call{}, classFinal, ErrNotFound, ""},
		{"412", 412, ``, call{}, classFinal, ErrPrecondition, ""},
		{"416", 416, ``, call{}, classFinal, ErrRange, ""},
		{"429 {}", 429, `{}`, call{}, classThrottle, ErrThrottled, ""},
		{"500 HTML", 500, `<html><body>Oops</body></html>`, call{}, classTrouble, ErrUnavailable, ""},
		{"503 array", 503, `[1,2]`, call{}, classTrouble, ErrUnavailable, ""},
		{"504 empty", 504, ``, call{}, classTrouble, ErrUnavailable, ""},
		{"odd types", 500, `{"code":5,"message":["x"],"info":7}`, call{}, classTrouble, ErrUnavailable, ""},
		{"cut JSON", 500, `{"code":"NAME_ALR`, call{}, classTrouble, ErrUnavailable, ""},
		{"redirect", 302, ``, call{}, classFinal, ErrProtocol, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := &http.Response{StatusCode: tt.status, Header: http.Header{"X-Amzn-Requestid": {"rid"}}, Body: io.NopCloser(strings.NewReader(tt.body))}
			k, e := classify(&tt.call, resp, peek(resp))
			if k != tt.class {
				t.Errorf("class %d, want %d", k, tt.class)
			}
			if tt.kind == nil {
				if e != nil {
					t.Fatalf("error %v", e)
				}
				return
			}
			if !errors.Is(e, tt.kind) || e.NodeID != tt.nodeID || e.RequestID != "rid" || e.Status != tt.status {
				t.Errorf("got %+v, want kind %v, node %q", e, tt.kind, tt.nodeID)
			}
		})
	}
}

func TestScrub(t *testing.T) {
	secret, other := "Atza|IwEBIExampleSecretPart", strings.Repeat("q", 70)+"IwEBIExampleSecretPart"
	StaticTokenSource(other) // what was given as a token is one, whatever its form
	for _, s := range []string{
		`'` + secret + `' not a valid key=value pair (missing equal-sign) in Authorization header: 'bearer ` + secret + `'.`,
		"Authorization=Bearer IwEBIExampleSecretPart",
		"https://content/cdproxy/templink/IwEBIExampleSecretPart?viewBox=3",
		"https://s3/x?X-Amz-Signature=IwEBIExampleSecretPart&y=1",
		"refresh_token=IwEBIExampleSecretPart",
		"the token " + other,
	} {
		if got := scrub(s); strings.Contains(got, "SecretPart") {
			t.Errorf("scrub(%q) = %q", s, got)
		}
	}
	plain := "com.amazon.clouddrive.client.exceptions.UnauthourizedAccessException: conflicting NodeId: ZyXwVuTsRqPoNmLkJiHgFe"
	if got := scrub(plain); got != plain {
		t.Errorf("scrub removed too much: %q", got)
	}
	name := strings.Repeat("a-long-name-of-a-file", 10) + ".bearer basic training.pdf"
	if got := scrub(name); got != name {
		t.Errorf("a name became %q", got)
	}
	if got := scrub(strings.Repeat("ä ", 1000)); len(got) > 500 {
		t.Errorf("%d bytes", len(got))
	}
	if got := scrub("two\nlines\x00"); strings.Contains(got, "\n") {
		t.Errorf("%q", got)
	}
}

func TestPeekIsBounded(t *testing.T) {
	r := &countingReader{}
	resp := &http.Response{StatusCode: 500, Header: http.Header{}, Body: io.NopCloser(r)}
	if n := len(peek(resp)); n != maxErrorBody {
		t.Errorf("%d bytes kept", n)
	}
	if r.n > maxErrorBody+4096 {
		t.Errorf("%d bytes read", r.n)
	}
	if k, e := classify(&call{}, resp, peek(resp)); k != classTrouble || !errors.Is(e, ErrUnavailable) {
		t.Errorf("%v %v", k, e)
	}
}

type countingReader struct{ n int }

func (r *countingReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '{'
	}
	r.n += len(p)
	return len(p), nil
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "999999999999999999": maxRetryAfter, "x": 0,
		now.Add(9 * time.Second).Format(http.TimeFormat): 9 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):      0,
	} {
		if got := retryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

func TestFold(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "abc": "abc", "ABC": "abc", "Straße": "straße", "ÄÖ": "äö", "İ": string('i'), "a\xffB\xfe": "a\xffb\xfe",
		"e\u0301": "e\u0301", "\u00c9": "\u00e9", "ΑΣ": "ας"[:2] + "σ", "\uFFFDX": "\uFFFDx",
	} {
		if got := Fold(in); got != want {
			t.Errorf("Fold(%q) = %q, want %q", in, got, want)
		}
	}
	if Fold("\xff") == Fold("\xfe") || Fold("\xffA") == Fold("\uFFFDA") {
		t.Error("different bytes became equal")
	}
}

func TestEscapeFilter(t *testing.T) {
	for in, want := range map[string]string{
		"a (1).txt": `a\ \(1\).txt`, `x\y"z`: `x\\y\"z`, "-abc": `\-abc`, "ü&%": `ü\&%`, "a*?:~^'": `a\*\?\:\~\^\'`, "": "", "[{}]!|+": `\[\{\}\]\!\|\+`,
	} {
		if got := EscapeFilter(in); got != want {
			t.Errorf("EscapeFilter(%q) = %q, want %q", in, got, want)
		}
	}
}
