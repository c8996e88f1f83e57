// Package sample answers one question: what lies in a drive that nobody used
// yet? It draws a few photos, a video with sound, a tune and some texts, so
// that the demo has something to show and the repository holds no blobs.
// The same bytes come out each time.
package sample
