package drivetest

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Discovery and account (§4).

func jsonReply(status int, v any) reply {
	b, _ := json.Marshal(v) // our own types
	return reply{status: status, body: b}
}

func (c *call) accountEndpoint() (reply, *apiError) {
	o := c.origin()
	return jsonReply(http.StatusOK, map[string]any{
		"customerExists": !c.s.noAccount(), "contentUrl": o + "/cdproxy/", "metadataUrl": o + "/drive/v1/",
		"region": "NA", "countryAtSignup": "US", "marketplaceAtSignup": "ATVPDKIKX0DER", "retailUrl": "https://www.amazon.com",
	}), nil
}

func (c *call) accountInfo() (reply, *apiError) {
	return jsonReply(http.StatusOK, map[string]string{"termsOfUse": "1.0.0", "status": "ACTIVE"}), nil
}

func (s *Server) date() string {
	b := appendDate(nil, s.st.stamp())
	return string(b[1 : len(b)-1])
}

func (c *call) accountQuota() (reply, *apiError) {
	c.s.st.mu.RLock()
	used := c.s.st.used
	c.s.st.mu.RUnlock()
	return jsonReply(http.StatusOK, map[string]any{"quota": c.s.o.Quota, "lastCalculated": c.s.date(), "available": max(0, c.s.o.Quota-used)}), nil
}

func (c *call) accountUsage() (reply, *apiError) {
	type count struct {
		Bytes int64 `json:"bytes"`
		Count int64 `json:"count"`
	}
	type entry struct {
		Total    count `json:"total"`
		Billable count `json:"billable"`
	}
	sums := map[string]*count{}
	c.s.st.mu.RLock()
	for _, n := range c.s.st.byID {
		if n.content == nil || n.kind != KindFile {
			continue
		}
		k := usageKind(n.content.contentType)
		if sums[k] == nil {
			sums[k] = &count{}
		}
		sums[k].Bytes += n.content.size
		sums[k].Count++
	}
	c.s.st.mu.RUnlock()
	out := map[string]any{}
	for k, v := range sums { // kinds without files are absent, as in new accounts (§4.4)
		out[k] = entry{*v, *v}
	}
	if len(out) > 0 {
		out["lastCalculated"] = c.s.date()
	}
	return jsonReply(http.StatusOK, out), nil
}

// usageKind is the category of a content type in usage and scopes.
func usageKind(contentType string) string {
	t := strings.ToLower(contentType)
	switch {
	case strings.HasPrefix(t, "image/"):
		return "photo"
	case strings.HasPrefix(t, "video/"):
		return "video"
	case strings.HasPrefix(t, "text/"), strings.Contains(t, "pdf"), strings.Contains(t, "document"), strings.Contains(t, "msword"),
		strings.Contains(t, "ms-excel"), strings.Contains(t, "ms-powerpoint"), strings.Contains(t, "rtf"):
		return "doc"
	}
	return "other"
}
