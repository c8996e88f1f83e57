package control

// The verbs of the control socket.
const (
	VerbStatus  = "status"
	VerbRefresh = "refresh"
	VerbFlush   = "flush"
	VerbLimit   = "limit"
	VerbUnmount = "unmount"
	VerbRename  = "rename"
	VerbAbout   = "about"
	VerbTrash   = "trash-list"
	VerbRestore = "trash-restore"
	VerbCheck   = "check"
	VerbYield   = "yield" // of one mount to another
)
