package otherdrive

import "time"

// Options are the choices the document leaves open. Zero values are the plain
// readings; strings name one of the alternatives in the comment beside them.
type Options struct {
	// Nodes.
	NoETag         bool   // no eTagResponse (§5.6)
	IfMatch        bool   // If-Match is honoured with 412 (§5.6)
	LeanContent    bool   // contentProperties hold size and md5 only (§5.2)
	NoCreatedBy    bool   // createdBy is absent (§5.1)
	ExtraFields    bool   // unknown fields of every JSON type (§1.3)
	LeanNodes      bool   // no labels, restricted, isShared, dates without milliseconds
	CaseRename     string // another case of the own name: "" allowed, "409" (§5.5)
	ASCIIFold      bool   // names fold A-Z only (§5.5)
	Normalises     bool   // composed and decomposed names are the same (§5.5)
	LastParent     string // "" root, "orphan" (§5.7)
	Strays         bool   // ASSET, PENDING, nameless and unknown kinds in every folder (§5)
	CombinedPatch  string // name and parents in one PATCH: "" works, "400", "ignored" (§6.8)
	MoveFromStrict bool   // a wrong fromParent is 400, not ignored (§6.8)

	// Errors.
	FalseErrors  int    // every so-many-th change of the tree works and answers 500 all the same (§13)
	NotFound     string // body of a 404: "" JSON, "empty", "xml", "html" (§3.3)
	BareConflict bool   // 409 without code, ids and info (§3.2)
	Conflict     string // body of every 409: "" JSON, "empty", "html", "cut" in the middle of the JSON (§13.6)
	Unreadable   int    // every so-many-th creation works, and its 201 is "html" or "cut" in turn (§13.6)
	Hiccups      int    // every so-many-th get of a node or of its content is 404 although it is there (§7.4, §13.1)
	UploadParent int    // status of an unknown parent; 0 = 400 (§7.1)

	// Lists.
	PageSize     int           // most nodes a page; 0 = 200
	LastPage     string        // "" no nextToken, "null", "empty" page, "endless" tokens with empty pages (§6.2)
	Count        string        // "" all matches, "page", "missing", "wrong" (§6.2)
	ListTrash    bool          // listings without a status filter contain TRASH (§5.3)
	HidePending  bool          // they contain no PENDING
	NameExact    bool          // the name filter looks at case (§6.4)
	Groups       string        // OR and groups: "" work, "none" match nothing, "400" (§6.4)
	ListLag      time.Duration // listings are this old (§13.1)
	PageRepeats  bool          // a page begins with the last node of the one before (§6.2)
	TrashFolders bool          // the trash lists folders only (§8.2)

	// Writes.
	EmptyAnswers  bool   // move, add and remove child: 202, empty body (§6.9)
	EmptyAnswers2 bool   // trash, restore: 200, empty body
	Retrash       int    // trashing a trashed node; 0 = 200 (§8.1)
	RestoreParent int    // restoring below a trashed parent; 0 = 200 (§8.3)
	RestoreClash  string // "" 409, "double" two of one name (§8.3)
	Deep          bool   // descendants of a trashed folder turn TRASH themselves (§8.1)
	LocalID       string // "" 409 with nodeId, "ignored", "409" bare, "same" answers the node (§6.6)

	// Content.
	NoChunked     bool          // chunked uploads are 411 (§3.1)
	EarlyConflict bool          // a taken name is 409 before the body is read (§7.1)
	AnswerPending bool          // the upload's answer is PENDING without contentProperties (§5.3)
	Range         string        // "" 206, "ignored" 200 with everything, "whole200" 200 for all of it, "star" an unknown total (§7.4)
	NoLength      bool          // downloads without Content-Length
	CutDownloads  bool          // every other download ends in the middle (§7.4)
	Redirect      bool          // every download goes to the storage host (§7.4)
	EmptyRange    int           // a range on an empty file; 0 = 416
	Created200    bool          // creations answer 200 (§7.1)
	LostUploads   int           // every so-many-th upload is stored and answers 504, or is cut (§13.2)
	LateUploads   time.Duration // what such an upload stored shows after so long
	ContentETag   string        // "" none, "content" of the bytes, "node" changes with every change of the node (§7.4)
	GzipContent   bool          // contents are gzip where the request takes that (§1.2)
	OverwriteLie  bool          // an overwrite answers the node before it (§7.2 lag)

	// Changes.
	Quiet         string        // nothing new: "" a line and the end, "end" alone, "nonodes" a line without nodes, "null" nodes (§9.2)
	Forgets       bool          // Forget makes all checkpoints unusable
	NoReset       bool          // reset is absent when false
	NeverReset    bool          // reset is absent on the first full answer too
	NoStatusCode  bool          // statusCode is absent
	RootInChanges bool          // root in incremental answers (§9.3)
	PendingFirst  bool          // a new file is PENDING in the first answer that has it (§9.3)
	BadCheckpoint string        // "" reset, "400" (§9.3)
	Gzip          string        // "" as asked, "always", "never" (§9.2)
	FeedLag       time.Duration // the feed is this old (§9.3)
	FeedRepeats   bool          // nodes from before the checkpoint come again
	FeedBackwards bool          // newest first: children before parents
	FeedShuffled  bool          // at random, another way each time
	IgnoreMax     bool          // maxNodes is not heeded (§9.1)
	FeedCut       bool          // every other answer with news is cut (§9.3)
	NewCheckpoint bool          // the checkpoint differs in each answer, news or not

	// Properties.
	OwnerCheck   string        // foreign owners: "" anyone, "403" (§11)
	PropsSilent  bool          // property calls change no version (§11)
	PropsLag     time.Duration // properties show in gets and listings so much later (§13.1)
	PropsDropped bool          // properties given at creation are ignored
	NoProps      bool          // every property call is 403

	// Transport.
	Spread       bool          // discovery, metadata, content on ports and paths of their own
	Moves        bool          // MoveHosts closes the old hosts (§4.1)
	EmptyUsage   bool          // account/usage is {} (§4.4)
	NoSlash      bool          // the base URLs lack their last slash
	Rotate       bool          // each refresh answers a new refresh token, the old one dies (§2.3)
	ExpiresIn    string        // "" number, "string", "missing" (§2.3)
	TokenCalls   int           // an access token dies after so many calls; 0 = never
	Expired      string        // "" 401 JSON, "empty" 401, "wrapped" 400 (§2.4)
	Throttle     int           // every so-many-th call is 429 with Retry-After 1; 0 = none
	ThrottleDate bool          // Retry-After is a date
	ThrottleRaw  bool          // those 429 have no Retry-After and `{}`
	Flaky        int           // every so-many-th call is 500 or 503 before anything happened
	NoKeepAlive  bool          // one connection a call
	Slow         time.Duration // every answer waits so long
}

// Choice is one other reading of the document.
type Choice struct {
	Name string
	Set  func(*Options)
}

// Choices are all other readings, each alone.
func Choices() []Choice {
	return []Choice{
		{"etag-none", func(o *Options) { o.NoETag = true }},
		{"if-match", func(o *Options) { o.IfMatch = true }},
		{"content-lean", func(o *Options) { o.LeanContent = true }},
		{"created-by-missing", func(o *Options) { o.NoCreatedBy = true }},
		{"extra-fields", func(o *Options) { o.ExtraFields = true }},
		{"lean-nodes", func(o *Options) { o.LeanNodes = true }},
		{"case-rename-409", func(o *Options) { o.CaseRename = "409" }},
		{"ascii-fold", func(o *Options) { o.ASCIIFold = true }},
		{"normalises", func(o *Options) { o.Normalises = true }},
		{"last-parent-orphan", func(o *Options) { o.LastParent = "orphan" }},
		{"strays", func(o *Options) { o.Strays = true }},
		{"patch-combined-400", func(o *Options) { o.CombinedPatch = "400" }},
		{"patch-combined-ignored", func(o *Options) { o.CombinedPatch = "ignored" }},
		{"move-from-strict", func(o *Options) { o.MoveFromStrict = true }},
		{"404-empty", func(o *Options) { o.NotFound = "empty" }},
		{"404-xml", func(o *Options) { o.NotFound = "xml" }},
		{"404-html", func(o *Options) { o.NotFound = "html" }},
		{"409-bare", func(o *Options) { o.BareConflict = true }},
		{"409-empty", func(o *Options) { o.Conflict = "empty" }},
		{"409-html", func(o *Options) { o.Conflict = "html" }},
		{"409-cut", func(o *Options) { o.Conflict = "cut" }},
		{"201-unreadable", func(o *Options) { o.Unreadable = 5 }},
		{"404-hiccups", func(o *Options) { o.Hiccups = 20 }},
		{"parent-404", func(o *Options) { o.UploadParent = 404 }},
		{"page-null", func(o *Options) { o.PageSize, o.LastPage = 7, "null" }},
		{"page-empty", func(o *Options) { o.PageSize, o.LastPage = 7, "empty" }},
		{"page-endless", func(o *Options) { o.PageSize, o.LastPage = 7, "endless" }},
		{"page-repeats", func(o *Options) { o.PageSize, o.PageRepeats = 7, true }},
		{"count-page", func(o *Options) { o.PageSize, o.Count = 7, "page" }},
		{"count-missing", func(o *Options) { o.PageSize, o.Count = 7, "missing" }},
		{"count-wrong", func(o *Options) { o.PageSize, o.Count = 7, "wrong" }},
		{"list-trash", func(o *Options) { o.ListTrash = true }},
		{"list-no-pending", func(o *Options) { o.HidePending, o.Strays = true, true }},
		{"name-exact", func(o *Options) { o.NameExact = true }},
		{"groups-none", func(o *Options) { o.Groups = "none" }},
		{"groups-400", func(o *Options) { o.Groups = "400" }},
		{"list-lag", func(o *Options) { o.ListLag = 4 * time.Second }},
		{"trash-folders", func(o *Options) { o.TrashFolders = true }},
		{"answers-empty", func(o *Options) { o.EmptyAnswers = true }},
		{"trash-answers-empty", func(o *Options) { o.EmptyAnswers2 = true }},
		{"retrash-409", func(o *Options) { o.Retrash = 409 }},
		{"retrash-404", func(o *Options) { o.Retrash = 404 }},
		{"restore-parent-400", func(o *Options) { o.RestoreParent = 400 }},
		{"restore-double", func(o *Options) { o.RestoreClash = "double" }},
		{"trash-deep", func(o *Options) { o.Deep = true }},
		{"local-id-ignored", func(o *Options) { o.LocalID = "ignored" }},
		{"local-id-409", func(o *Options) { o.LocalID = "409" }},
		{"local-id-same", func(o *Options) { o.LocalID = "same" }},
		{"no-chunked", func(o *Options) { o.NoChunked = true }},
		{"early-409", func(o *Options) { o.EarlyConflict = true }},
		{"answer-pending", func(o *Options) { o.AnswerPending = true }},
		{"range-ignored", func(o *Options) { o.Range = "ignored" }},
		{"no-length", func(o *Options) { o.NoLength = true }},
		{"range-ignored-no-length", func(o *Options) { o.Range, o.NoLength = "ignored", true }},
		{"cut-downloads", func(o *Options) { o.CutDownloads = true }},
		{"redirect", func(o *Options) { o.Redirect = true }},
		{"empty-range-200", func(o *Options) { o.EmptyRange = 200 }},
		{"overwrite-lie", func(o *Options) { o.OverwriteLie = true }},
		{"quiet-end", func(o *Options) { o.Quiet = "end" }},
		{"quiet-no-nodes", func(o *Options) { o.Quiet = "nonodes" }},
		{"reset-missing", func(o *Options) { o.NoReset = true }},
		{"reset-never", func(o *Options) { o.NoReset, o.NeverReset = true, true }},
		{"status-code-missing", func(o *Options) { o.NoStatusCode = true }},
		{"root-in-changes", func(o *Options) { o.RootInChanges = true }},
		{"pending-first", func(o *Options) { o.PendingFirst = true }},
		{"checkpoint-400", func(o *Options) { o.Forgets, o.BadCheckpoint = true, "400" }},
		{"gzip-always", func(o *Options) { o.Gzip = "always" }},
		{"gzip-never", func(o *Options) { o.Gzip = "never" }},
		{"feed-lag", func(o *Options) { o.FeedLag = 4 * time.Second }},
		{"feed-repeats", func(o *Options) { o.FeedRepeats = true }},
		{"feed-backwards", func(o *Options) { o.FeedBackwards = true }},
		{"feed-shuffled", func(o *Options) { o.FeedShuffled = true }},
		{"max-nodes-ignored", func(o *Options) { o.IgnoreMax = true }},
		{"feed-cut", func(o *Options) { o.FeedCut = true }},
		{"checkpoint-new", func(o *Options) { o.NewCheckpoint = true }},
		{"owner-403", func(o *Options) { o.OwnerCheck = "403" }},
		{"props-silent", func(o *Options) { o.PropsSilent = true }},
		{"props-lag", func(o *Options) { o.PropsLag = 4 * time.Second }},
		{"props-dropped", func(o *Options) { o.PropsDropped = true }},
		{"props-none", func(o *Options) { o.NoProps = true }},
		{"spread", func(o *Options) { o.Spread = true }},
		{"no-slash", func(o *Options) { o.Spread, o.NoSlash = true, true }},
		{"token-rotate", func(o *Options) { o.Rotate, o.TokenCalls = true, 60 }},
		{"token-string", func(o *Options) { o.ExpiresIn, o.TokenCalls = "string", 60 }},
		{"token-missing", func(o *Options) { o.ExpiresIn, o.TokenCalls = "missing", 60 }},
		{"expired-empty", func(o *Options) { o.Expired, o.TokenCalls = "empty", 60 }},
		{"expired-wrapped", func(o *Options) { o.Expired, o.TokenCalls = "wrapped", 60 }},
		{"throttle", func(o *Options) { o.Throttle = 20 }},
		{"throttle-date", func(o *Options) { o.Throttle, o.ThrottleDate = 20, true }},
		{"usage-empty", func(o *Options) { o.EmptyUsage = true }},
		{"hosts-move", func(o *Options) { o.Spread, o.Moves = true, true }},
		{"false-errors", func(o *Options) { o.FalseErrors = 5 }},
		{"created-200", func(o *Options) { o.Created200 = true }},
		{"lost-uploads", func(o *Options) { o.LostUploads = 9 }},
		{"lost-uploads-late", func(o *Options) { o.LostUploads, o.LateUploads = 20, 3*time.Second }},
		{"lost-uploads-id-ignored", func(o *Options) { o.LostUploads, o.LateUploads, o.LocalID = 20, 2*time.Second, "ignored" }},
		{"content-etag", func(o *Options) { o.ContentETag = "content" }},
		{"content-etag-moves", func(o *Options) { o.ContentETag = "node" }},
		{"gzip-content", func(o *Options) { o.GzipContent = true }},
		{"range-whole-200", func(o *Options) { o.Range = "whole200" }},
		{"range-star", func(o *Options) { o.Range = "star" }},
		{"quiet-null", func(o *Options) { o.Quiet = "null" }},
		{"checkpoint-forgotten", func(o *Options) { o.Forgets = true }},
		{"throttle-raw", func(o *Options) { o.Throttle, o.ThrottleRaw = 20, true }},
		{"flaky", func(o *Options) { o.Flaky = 20 }},
		{"no-keep-alive", func(o *Options) { o.NoKeepAlive = true }},
		{"slow", func(o *Options) { o.Slow = 150 * time.Millisecond }},
	}
}
