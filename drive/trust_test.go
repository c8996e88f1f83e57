package drive

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

func TestTrustedHosts(t *testing.T) {
	const amazon = "https://drive.amazonaws.com/drive/v1/"
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{amazon, "https://cdws.us-east-1.amazonaws.com/drive/v1/", true},
		{amazon, "https://cdws.eu-west-1.amazonaws.com/drive/v1/", true},
		{amazon, "https://cdws-cn.us-west-2.amazonaws.com/drive/v1/", true},
		{amazon, "https://content-na.drive.amazonaws.com/cdproxy/", true},
		{amazon, "https://CONTENT-EU.drive.amazonaws.com/cdproxy/", true},
		{amazon, "https://drive.amazonaws.com/drive/v1/", true},
		{amazon, "https://www.amazon.co.uk/drive/v1/", true},
		{amazon, "https://download-photos.amazon.com/", true},
		{amazon, "https://thief.s3.amazonaws.com/", false},
		{amazon, "https://ec2-1-2-3-4.compute-1.amazonaws.com/", false},
		{amazon, "https://thief.drive.amazonaws.com/", false},
		{amazon, "https://cdws.us-east-1.amazonaws.com.thief.example/", false},
		{amazon, "https://www.amazon.thief.example/", false},
		{amazon, "https://amazon.com/", false},
		{amazon, "https://localhost/", false},
		{amazon, "http://127.0.0.1:80/", false},
		{"https://api.mine.example/", "https://api.mine.example:8443/", true},
		{"https://api.mine.example/", "https://content.mine.example/", true},
		{"https://api.mine.example/", "https://mine.example/", true},
		{"https://api.mine.example/", "https://mine.example.thief.example/", false},
		{"https://api.mine.example/", "https://other.test/", false},
		{"https://a.github.io/", "https://b.github.io/", false},
		{"https://a.co.uk/", "https://b.co.uk/", false},
		{"https://10.0.0.1/", "https://10.0.0.1:1/", true},
		{"https://10.0.0.1/", "https://10.0.0.2/", false},
		{"https://nas/", "https://nas/x/", true},
		{"https://nas/", "https://other/", false},
		{"http://127.0.0.1:80/", "http://localhost:81/", true},
		{"http://localhost/", "https://[::1]/", true},
		{"http://localhost/", "https://drive.amazonaws.com/", false},
		{"https://nas/", "http://127.0.0.1/", false},
	} {
		from, err := url.Parse(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := url.Parse(tt.to)
		if err != nil {
			t.Fatal(err)
		}
		if got := trusted(from, to); got != tt.want {
			t.Errorf("%s by %s: %v", tt.to, tt.from, got)
		}
	}
}

// No token goes to a host that is not trusted, whether discovery or the cache
// names it; hosts known from before go on.
func TestUntrustedEndpoints(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		metadata, content    string
		cached, trust, works bool
	}{
		{"metadata", "https://thief.test/", "https://mine.example/c/", false, false, false},
		{"content", "https://mine.example/m/", "https://thief.test/", false, false, false},
		{"cached", "https://thief.test/", "https://thief.test/", true, false, true}, // asked anew
		{"trusted by its owner", "https://thief.test/", "https://thief.test/", false, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stolen int
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/account/endpoint" && tt.cached:
					reply(w, 200, `{"customerExists":true,"metadataUrl":"https://mine.example/m/","contentUrl":"https://mine.example/c/"}`)
				case r.URL.Path == "/account/endpoint":
					reply(w, 200, fmt.Sprintf(`{"customerExists":true,"metadataUrl":%q,"contentUrl":%q}`, tt.metadata, tt.content))
				default:
					if r.URL.Host == "thief.test" {
						stolen++
					}
					reply(w, 200, node("x", "n"))
				}
			})
			o := Options{Endpoint: "https://api.mine.example/", Transport: inProcess{h}, Tokens: StaticTokenSource("t"), TrustEndpoints: tt.trust}
			if tt.cached {
				o.Endpoints = &memoryCache{e: Endpoints{Metadata: tt.metadata, Content: tt.content}}
			}
			c, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Get(bg, "x")
			if (err == nil) != tt.works || !tt.works && !errors.Is(err, ErrUntrusted) {
				t.Errorf("get: %v", err)
			}
			if (stolen > 0) != tt.trust {
				t.Errorf("%d calls went to the other host", stolen)
			}
		})
	}
}
