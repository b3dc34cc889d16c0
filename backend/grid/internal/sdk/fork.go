// Package sdk is the grid over tfgrid-sdk-go: the only package of ours that is
// compiled with it, apart from the doubles in backend/grid/gridtest. Programs reach
// it through backend/grid/tfgrid.
package sdk

// The one file that imports the fork of grid-client: what the rest needs of it has
// its name here. NOTICE tells why it is a fork.

import (
	"github.com/scottyeager/tfgrid-sdk-go/grid-client/calculator"
	"github.com/scottyeager/tfgrid-sdk-go/grid-client/deployer"
	client "github.com/scottyeager/tfgrid-sdk-go/grid-client/node"
	"github.com/scottyeager/tfgrid-sdk-go/grid-client/state"
	"github.com/scottyeager/tfgrid-sdk-go/grid-client/subi"
	"github.com/scottyeager/tfgrid-sdk-go/grid-client/workloads"
	"github.com/scottyeager/tfgrid-sdk-go/grid-client/zos"
)

type (
	// PluginClient is the SDK's bag of clients.
	PluginClient = deployer.TFPluginClient
	// PluginOpt is an option of NewPluginClient.
	PluginOpt = deployer.PluginOpt
	// DeploymentDeployer makes contracts and workloads.
	DeploymentDeployer = deployer.DeploymentDeployer
	// NodeClient talks to one node.
	NodeClient = client.NodeClient
	// NodeClientGetter knows the nodes' clients.
	NodeClientGetter = client.NodeClientGetter
	// SubstrateExt is the chain.
	SubstrateExt = subi.SubstrateExt
	// ChainContract is a contract as the chain has it.
	ChainContract = subi.Contract
	// Workloads are a deployment that is wanted.
	Workloads = workloads.Deployment
	// ZDB is a zdb that is wanted, or is there.
	ZDB = workloads.ZDB
	// Deployment is what a node is sent.
	Deployment = zos.Deployment
	// Workload is one part of a Deployment.
	Workload = zos.Workload
	// Result is what became of a Workload.
	Result = zos.Result
	// ZDBResult is a Result's data.
	ZDBResult = zos.ZDBResult
)

// The SDK's functions and values that are used.
var (
	NewCalculator         = calculator.NewCalculator
	NewPluginClient       = deployer.NewTFPluginClient
	NewDeploymentDeployer = deployer.NewDeploymentDeployer
	NewNodeClientPool     = client.NewNodeClientPool
	NewState              = state.NewState
	NewDeployment         = workloads.NewDeployment
	ParseDeploymentData   = workloads.ParseDeploymentData
	ZDBFromWorkload       = workloads.NewZDBFromWorkload
	WithNetwork           = deployer.WithNetwork
	WithSubstrateURL      = deployer.WithSubstrateURL
	WithRelayURL          = deployer.WithRelayURL
	WithProxyURL          = deployer.WithProxyURL
	WithRMBTimeout        = deployer.WithRMBTimeout
	WithNoColorLogs       = deployer.WithNoColorLogs
	SentryDSN             = deployer.SentryDSN
	ProxyURLs             = deployer.ProxyURLs
	SubstrateURLs         = deployer.SubstrateURLs
)

const (
	zdbType  = zos.ZDBType
	stateOk  = zos.StateOk
	modeUser = workloads.ZDBModeUser
	modeSeq  = workloads.ZDBModeSeq
	gigabyte = zos.Gigabyte // 1<<30
	projects = "qsfs/"      // before a name: the project, as the reference has it
)
