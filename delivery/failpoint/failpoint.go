package failpoint

// Point is a moment.
type Point string

// The moments, in the order in which a delivery comes to them, and those of a sweep.
const (
	AfterFetch    Point = "after-fetch"    // River has handed over the job; nothing was claimed
	AfterClaim    Point = "after-claim"    // the claim is committed; nothing was sent
	BeforeWrite   Point = "before-write"   // there is a connection; nothing was written
	AfterWrite    Point = "after-write"    // the request was given to the connection: the beginning of a large one is out, nothing of one below 4 KB
	AfterResponse Point = "after-response" // the answer's head is there
	BeforeRecord  Point = "before-record"  // the outcome is decided; nothing of it is in the database
	AfterRecord   Point = "after-record"   // the record is committed; nobody was told

	InSweepPage    Point = "in-sweep-page"    // in a page's transaction
	AfterSweepPage Point = "after-sweep-page" // a page is committed
)

// Points are all of them.
var Points = []Point{AfterFetch, AfterClaim, BeforeWrite, AfterWrite, AfterResponse, BeforeRecord, AfterRecord, InSweepPage, AfterSweepPage}
