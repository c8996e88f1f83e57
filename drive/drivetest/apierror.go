package drivetest

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/google/uuid"
)

// apiError is a refusal as the service words it (§3.2, §3.3).
type apiError struct {
	status  int
	code    string
	hasCode bool // "code" is present although empty
	message string
	nodeID  string
	xml     string // != "": this body instead of JSON
}

func (e *apiError) Error() string {
	return fmt.Sprintf("HTTP %d %s: %s", e.status, e.code, e.message)
}

// body in the shape of §3.2: logref and code only where the service had them.
func (e *apiError) body() (contentType string, body []byte) {
	if e.xml != "" {
		return "application/xml", []byte(e.xml)
	}
	type info struct {
		NodeID string `json:"nodeId"`
	}
	v := struct {
		LogRef  string  `json:"logref,omitempty"`
		Message string  `json:"message"`
		Code    *string `json:"code,omitempty"`
		Info    *info   `json:"info,omitempty"`
	}{Message: e.message}
	if e.code != "" || e.hasCode {
		v.LogRef, v.Code = uuid.NewString(), &e.code
	}
	if e.nodeID != "" {
		v.Info = &info{e.nodeID}
	}
	b, _ := json.Marshal(v) // strings only
	return "application/json", b
}

func badRequest(format string, a ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, message: fmt.Sprintf(format, a...)}
}

// refused is a 400 with an empty code, as tree checks answered.
func refused(format string, a ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, hasCode: true, message: fmt.Sprintf(format, a...)}
}

func forbidden(format string, a ...any) *apiError {
	return &apiError{status: http.StatusForbidden, message: fmt.Sprintf(format, a...)}
}

// notFound: the body of a 404 is unknown; this is the document's guess (§3.3).
func notFound(id string) *apiError {
	return &apiError{status: http.StatusNotFound, hasCode: true, message: "Node does not exist: " + id}
}

func nameTaken(foldedName, parent, id string) *apiError {
	return &apiError{status: http.StatusConflict, code: "NAME_ALREADY_EXISTS", nodeID: id,
		message: fmt.Sprintf("Node with the name %s already exists under parentId %s conflicting NodeId: %s", foldedName, parent, id)}
}

func unknownOperation() *apiError {
	return &apiError{status: http.StatusNotFound, xml: "<UnknownOperationException/>\n"}
}

func overQuota() *apiError {
	return &apiError{status: http.StatusForbidden, code: "NO_ACTIVE_SUBSCRIPTION_FOUND", message: "File size exceeds account allowance."}
}

func staleTag() *apiError {
	return &apiError{status: http.StatusPreconditionFailed, message: "The node does not match the given ETag"}
}

func broken(err error) *apiError {
	return &apiError{status: http.StatusInternalServerError, message: "Internal failure: " + err.Error()}
}
