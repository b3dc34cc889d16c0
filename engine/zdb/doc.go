// Package zdb is a client of zdb servers: the real 0-db and
// engine/zdb/server speak the same protocol to it.
//
// [Dial] gives a [Client] of one namespace, which is a [backend.Conn]: it
// connects when it is first used, keeps a few connections, puts the requests
// of concurrent callers on them without waiting for answers in between, and
// connects again after a fault. It never repeats a request whose bytes may
// have reached the server. [DialAdmin] gives an [Admin] for what concerns a
// whole server: namespaces, their properties, switching files.
//
// Passwords are proven by zdb's challenge, and sent in clear only to servers
// that have none. There is no encryption on the wire: what is secret must be
// sealed before it comes here.
package zdb
