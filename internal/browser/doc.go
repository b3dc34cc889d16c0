// Package browser drives a headless Chromium for tests on Linux: it opens a
// page, looks at it, presses keys and takes pictures. It speaks the DevTools
// protocol over two pipes, so that nothing listens on a port.
//
//	b := browser.Start(t)                 // skips the test where there is none
//	p := b.Open(t, url, browser.Screen{Width: 1280, Height: 800})
//	p.Eventually(t, `document.title === "ok"`)
//	p.Problems()                          // errors, and violations of the content security policy
package browser
