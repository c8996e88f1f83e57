package drive

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"time"
)

// Kind is what a node is. Kinds unknown to this package are kept as the
// service wrote them, so callers must treat any other value as "neither
// file nor folder". Source: API document §5.1.
type Kind string

// The kinds a filesystem cares about.
const (
	File   Kind = "FILE"
	Folder Kind = "FOLDER"
	Asset  Kind = "ASSET"
)

// Status is where a node is in its life. Only Available is live.
// Source: API document §5.3.
type Status string

// The four states a node can be in.
const (
	Available Status = "AVAILABLE"
	Pending   Status = "PENDING"
	Trashed   Status = "TRASH"
	Purged    Status = "PURGED"
)

// Node is one object of the service, as the service described it. It is a
// plain value: nothing in it is shared with the client, and the zero value
// is no node at all. Source: API document §5.1.
type Node struct {
	ID      string `json:"id"`
	Name    string `json:"name"` // "" on the root, and on nodes a client must skip
	Kind    Kind   `json:"kind"`
	Status  Status `json:"status"`
	Version int64  `json:"version"` // grows with every change of the metadata

	Parents []string `json:"parents"` // ids; empty on the root

	Created   time.Time `json:"createdDate"`
	Modified  time.Time `json:"modifiedDate"` // server-set; behaves like a ctime
	CreatedBy string    `json:"createdBy"`    // owner name of the app that made it

	Labels      []string `json:"labels"`
	Description string   `json:"description"`

	// Properties is owner → key → value. Nil when the call did not ask for
	// them (the feed never carries them); empty and non-nil when it asked
	// and there are none. §11.
	Properties map[string]map[string]string `json:"properties"`

	IsRoot bool   `json:"isRoot"`
	ETag   string `json:"eTagResponse"` // opaque, changes with the node; §5.6

	// Content is nil for folders and for files that are still PENDING.
	Content *ContentProperties `json:"contentProperties"`

	TempLink string `json:"tempLink"` // only when asked for; §7.5
}

// Live reports whether the node is one a filesystem shows: an available
// file or folder. The root is live although it has no name.
func (n *Node) Live() bool {
	return n.Status == Available && (n.Kind == File || n.Kind == Folder) && (n.Name != "" || n.IsRoot)
}

// ContentProperties describes the bytes of a file. Source: API document §5.2.
type ContentProperties struct {
	Version     int64  `json:"version"` // 1 on upload, one more with each overwrite; made from MD5 and Size where the service tells none
	Size        int64  `json:"size"`    // bytes
	MD5         string `json:"md5"`     // lower-case hex of the whole content
	ContentType string `json:"contentType"`
	Extension   string `json:"extension"`
}

// UnmarshalJSON makes a version where the service tells none: caches and the
// search for conflicts tell contents apart by it.
func (c *ContentProperties) UnmarshalJSON(data []byte) error {
	type plain ContentProperties
	if err := json.Unmarshal(data, (*plain)(c)); err != nil {
		return err
	}
	if c.Version == 0 && c.MD5 != "" {
		h := fnv.New64a()
		fmt.Fprintf(h, "%s %d", c.MD5, c.Size)
		c.Version = int64(h.Sum64()>>2) + 1<<62 // far from any that is counted
	}
	return nil
}

// Endpoints are the two hosts an account lives on; both end in a slash.
// Cache them for three days. Source: API document §4.1.
type Endpoints struct {
	Metadata string    `json:"metadataUrl"`
	Content  string    `json:"contentUrl"`
	Fetched  time.Time `json:"fetched"` // when discovery answered
}

// Quota is the space of the account in bytes. It lags behind uploads and is
// no check before one. Source: API document §4.3.
type Quota struct {
	Quota          int64     `json:"quota"`
	Available      int64     `json:"available"`
	LastCalculated time.Time `json:"lastCalculated"`
}

// Usage is what lies in the account by kind of content. Kinds the service
// left out are zero. Source: API document §4.4.
type Usage struct {
	LastCalculated time.Time  `json:"lastCalculated"`
	Other          UsageEntry `json:"other"`
	Document       UsageEntry `json:"doc"`
	Photo          UsageEntry `json:"photo"`
	Video          UsageEntry `json:"video"`
}

// UsageEntry is one kind of content: everything, and what weighs on the quota.
type UsageEntry struct {
	Total    UsageCount `json:"total"`
	Billable UsageCount `json:"billable"`
}

// UsageCount is a sum of bytes over a number of files.
type UsageCount struct {
	Bytes int64 `json:"bytes"`
	Count int64 `json:"count"`
}

// Batch is one line of the changes feed: nodes, and the checkpoint that
// covers them once they are applied. Source: API document §9.2.
type Batch struct {
	Checkpoint string `json:"checkpoint"`
	Reset      bool   `json:"reset"` // forget every known node before applying
	Nodes      []Node `json:"nodes"`
}
