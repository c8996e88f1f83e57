package otherdrive

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *Server) changes(w http.ResponseWriter, r *http.Request, body []byte) {
	var q struct {
		Checkpoint    string
		ChunkSize     int
		MaxNodes      int
		IncludePurged string
	}
	if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, &q); err != nil {
			s.complainLocked("changes with %s", body)
			s.problem(w, 400, err.Error())
			return
		}
	}
	from, reset := int64(0), true
	if q.Checkpoint != "" {
		rest, ok := strings.CutPrefix(q.Checkpoint, "CP_")
		epoch, rest, _ := strings.Cut(rest, "_")
		rest, _, _ = strings.Cut(rest, "_")
		n, err := strconv.ParseInt(rest, 36, 64)
		switch {
		case ok && err == nil && n <= s.seq && epoch == strconv.Itoa(s.epoch):
			from, reset = n, false
		case s.opt.BadCheckpoint == "400":
			s.problem(w, 400, "Invalid checkpoint")
			return
		}
	}
	upTo := s.seq
	then := time.Now().Add(-s.opt.FeedLag)
	var news []state
	for _, id := range s.order {
		h := s.hist[id]
		i := len(h) - 1
		for ; i >= 0 && s.opt.FeedLag > 0 && h[i].at.After(then); i-- {
			upTo = min(upTo, h[i].seq-1)
		}
		if i < 0 || (h[i].isRoot && !reset && !s.opt.RootInChanges) || h[i].status == "PURGED" && q.IncludePurged != "true" {
			continue
		}
		if h[i].seq > from || h[i].isRoot || (s.opt.FeedRepeats && h[i].seq > from-20) {
			news = append(news, h[i])
		}
	}
	slices.SortFunc(news, func(a, b state) int { return int(a.seq - b.seq) })
	upTo = max(upTo, from)
	if !reset && len(news) > 0 && !slices.ContainsFunc(news, func(n state) bool { return n.seq > from }) && !s.opt.RootInChanges && !s.opt.FeedRepeats {
		news = nil
	}
	points := make([]int64, len(news))
	for i, n := range news {
		points[i] = max(from, min(n.seq, upTo))
	}
	if s.opt.FeedBackwards || s.opt.FeedShuffled {
		slices.Reverse(news)
		if s.opt.FeedShuffled {
			s.rng.Shuffle(len(news), func(i, j int) { news[i], news[j] = news[j], news[i] })
		}
		for i := range points {
			points[i] = from
		}
	}
	if q.MaxNodes > 0 && len(news) > q.MaxNodes && !s.opt.FeedBackwards && !s.opt.FeedShuffled && !s.opt.IgnoreMax {
		news, points = news[:q.MaxNodes], points[:q.MaxNodes]
		upTo = points[len(points)-1]
	}
	chunk := 50
	if q.ChunkSize > 0 {
		chunk = min(chunk, q.ChunkSize)
	}
	s.feeds++
	var out bytes.Buffer
	line := func(at int64, nodes []any) {
		m := map[string]any{"checkpoint": fmt.Sprintf("CP_%d_%s", s.epoch, strconv.FormatInt(at, 36)), "nodes": nodes}
		if s.opt.NewCheckpoint {
			m["checkpoint"] = fmt.Sprintf("CP_%d_%s_%d", s.epoch, strconv.FormatInt(at, 36), s.feeds)
		}
		if nodes == nil && s.opt.Quiet == "nonodes" {
			delete(m, "nodes")
		}
		if reset && !s.opt.NeverReset || !reset && !s.opt.NoReset {
			m["reset"] = reset
		}
		reset = false
		if !s.opt.NoStatusCode {
			m["statusCode"] = 200
		}
		b, err := json.Marshal(m)
		if err != nil {
			panic(err)
		}
		out.Write(append(b, '\n'))
	}
	again := false
	for i := 0; i < len(news); i += chunk {
		to := min(i+chunk, len(news))
		nodes := []any{}
		for j := i; j < to; j++ {
			n := news[j].node
			if s.opt.PendingFirst && n.kind == "FILE" && n.status == "AVAILABLE" && n.content != nil && !s.shown[n.id] {
				s.shown[n.id] = true
				again = true
				n.status = "PENDING"
				n.version = max(0, n.version-1)
			}
			nodes = append(nodes, s.wire(&n, nil))
		}
		at := points[to-1]
		if to == len(news) {
			at = upTo
		}
		if again {
			at = from
		}
		line(at, nodes)
	}
	if len(news) == 0 {
		switch s.opt.Quiet {
		case "":
			line(upTo, []any{})
		case "null":
			line(upTo, []any(nil))
		case "nonodes":
			line(upTo, nil)
		}
	}
	whole := out.Len()
	out.WriteString("{\"end\":true}\n")
	if s.opt.FeedCut && len(news) > 0 && s.feeds%2 == 1 {
		out.Truncate(whole - 3)
	}
	if s.opt.Gzip == "always" || s.opt.Gzip == "" && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(out.Bytes())
		_ = z.Close()
		return
	}
	_, _ = w.Write(out.Bytes())
}
