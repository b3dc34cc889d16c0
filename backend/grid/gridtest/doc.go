// Package gridtest is a ThreeFold Grid for tests: a chain, a proxy and nodes whose
// zdbs are real ones on loopback, behind one HTTP server, so that other processes
// can use it too.
//
//	g := gridtest.New(t)                       // twenty nodes on five farms
//	c, err := gridtest.Dial(ctx, g.URL())      // a grid.Client with the real SDK inside
//	g.Node(3, func(n *gridtest.Node) { n.Refuses = "no" })
//	g.Counts()                                 // contracts: created, cancelled, alive
//
// What is real between a Client and the double: the SDK's DeploymentDeployer with
// signing, hashing, batching and polling, its node clients, its proxy client, and
// all of backend/grid/internal/sdk. What is not: the encoding of the chain, the
// relay's encryption, and NewTFPluginClient, which only knows public addresses.
//
// The nodes check what real ones check: that the contract is on the chain, for this
// node, and that its hash is that of the deployment.
package gridtest
