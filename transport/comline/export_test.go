package comline

// For the tests outside the package, which the suite of package
// transporttest needs: it imports this package.
var Ends = ends

const Fast = fast
