#!/usr/bin/env python3
"""The status page in a browser: check.py DIR

DIR has healthy.html, broken.html, starting.html and large.html, as the program renders them. Each is checked in two widths
and two colour schemes, which leaves DIR/<name>-<width>-<scheme>.png; then one is kept open while the status changes.
The browser is $CHROMIUM, or chromium."""
import base64, collections, http.server, itertools, json, os, pathlib, re, select, signal, subprocess, sys, tempfile
import threading, time

NAMES = ["healthy", "broken", "starting", "large"]
# As in src/status/http.rs.
POLICY = ("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
          "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")

# Elements that are too wide or cut off. A table's head for screen readers only has no size.
WIDE = """[...document.querySelectorAll('html, body *')].filter(e => {
  const r = e.getBoundingClientRect(), cut = e.clientWidth && e.scrollWidth > e.clientWidth + 1;
  if (e.closest('thead')?.offsetWidth < 2 || r.width <= 1) return false;
  return r.right > document.documentElement.clientWidth + .5 || r.left < -.5 || cut && (!e.children.length || e.matches('html'));
}).map(e => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 40)}`)"""

HEADINGS = "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])"
TABLES = """[...document.querySelectorAll('table')].filter(t =>
  !t.caption?.textContent.trim() || !t.querySelector('thead th[scope=col]') || !t.querySelector('tbody th[scope=row]')
  || t.querySelector('th:not([scope=col], [scope=row])')).map(t => t.textContent.trim().slice(0, 40))"""
HEADS = "document.querySelectorAll('th').length"
ICON = "document.querySelector('link[rel=icon]')?.href.startsWith('data:')"
MARKUP = "[...document.querySelectorAll('main script, main img, main iframe')].map(e => e.outerHTML)"

# Contrast, colours and text of each pair of colours. A canvas reads them in any notation, and lays one on the other.
COLOURS = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), seen = {};
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = colours => {
    for (canvas.fillStyle of ['#fff', ...colours]) canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(linear);
    return .2126 * r + .7152 * g + .0722 * b; };
  const look = (e, text, pseudo) => {
    const style = getComputedStyle(e, pseudo), colours = pseudo ? [style.backgroundColor, style.color] : [style.color];
    for (; e; e = e.parentElement) colours.unshift(getComputedStyle(e).backgroundColor);
    if (seen[colours]) return;
    const [low, high] = [light(colours.slice(0, -1)), light(colours)].sort((a, b) => a - b);
    seen[colours] = [(high + .05) / (low + .05), colours.filter(c => !/, 0[)]$/.test(c)).join(' '), text.trim()]; };
  for (const e of document.querySelectorAll('body, body :not(script, style, noscript)')) {
    for (const n of e.childNodes) if (n.nodeType == 3 && n.data.trim()) look(e, n.data);
    for (const p of ['::before', '::after']) if (/^".*\\w/.test(getComputedStyle(e, p).content)) look(e, e.textContent, p);
  }
  return Object.values(seen); })()"""

# Whether the page equals a new one, except for what the reader has opened and what is shown on hovering.
SAME = """(html => {
  const parts = d => ['title', 'link[rel=icon]', 'header', 'main', 'footer'].map(s => d.querySelector(s).cloneNode(true));
  const bare = e => e.querySelectorAll('*').forEach(e => { e.removeAttribute('open'); e.removeAttribute('title'); }) || e;
  const fresh = parts(new DOMParser().parseFromString(html, 'text/html'));
  return parts(document).every((part, i) => bare(part).isEqualNode(bare(fresh[i]))); })"""

# The reader's actions, and those whose result is lost.
READ = "more = document.querySelector('main details'); more.open = true; more.firstElementChild.focus(); scrollTo(0, 900)"
LOST = """Object.entries({open: more.isConnected && more.open, closed: document.querySelectorAll('details[open]').length == 1,
  focus: document.activeElement == more.firstElementChild, 'scroll position': scrollY == 900}).filter(([_, kept]) => !kept)"""

BANNER = """(e => { const r = e.getBoundingClientRect();
  return r.top >= 0 && r.bottom < 100 && r.height > 20 ? e.textContent : ''; })(document.getElementById('lost'))"""


class Site(http.server.ThreadingHTTPServer):
    """Serves the pages under their names, and at / that of `now`, with a number in it that differs in each answer."""

    handle_error = lambda *_: None  # A page that is left reads no answer.

    def __init__(self, directory):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages = {f"/{name}": (directory / f"{name}.html").read_bytes() for name in NAMES}
        self.now, self.away, self.last, self.asked, self.strange = "large", None, "", [], []
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        site, body = self.server, self.server.pages.get(self.path)
        if self.path == "/":
            site.asked.append(time.monotonic())
            body = re.sub(rb"(?=</(?:h1|h2|summary)>)", b" #%d" % len(site.asked), site.pages[f"/{site.now}"])
            site.last = body.decode()
        elif not body:
            site.strange.append(self.path)
        if site.away == "503":
            self.send_error(503)
        elif body and not site.away:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

    log_message = lambda *_: None


class Browser:
    """A tab of Chromium by its debugging pipe: it reads from 3 and writes to 4, and a NUL ends each message."""

    def __init__(self, profile):
        theirs, self.to = os.pipe()
        self.come, theirs_too = os.pipe()
        # theirs_too is the last of four new ones, and so not the 3 that is written over first.
        place = lambda: (os.dup2(theirs, 3), os.dup2(theirs_too, 4))
        command = [os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox", "--no-first-run", "--disable-gpu",
                   "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(command, env=os.environ | {"TMPDIR": profile}, start_new_session=True, pass_fds=(3, 4),
                                        preexec_fn=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(theirs_too)
        self.number, self.buffer, self.events, self.tab = 0, b"", [], {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.tab = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.number += 1
        os.write(self.to, json.dumps({"id": self.number, "method": method, "params": params} | self.tab).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                assert select.select([self.come], [], [], 60)[0], "the browser does not answer"
                self.buffer += os.read(self.come, 1 << 20) or sys.exit("the browser has exited")
            message, self.buffer = self.buffer.split(b"\0", 1)
            message = json.loads(message)
            if message.get("id") == self.number:
                assert "error" not in message, (method, message)
                return message["result"]
            self.events.append(message)

    def open(self, url, width=1280, scheme="light", script=True):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.events = []
        self.call("Page.navigate", url=url)
        assert until(lambda: self.js("document.readyState") == "complete", 60), f"{url} is not loaded"

    def js(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def received(self, method):
        self.call("Browser.getVersion")  # What has come before is read with its answer.
        return [event["params"] for event in self.events if event["method"] == method]


def until(condition, seconds=8):
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met


failures = []


def check(what, wrong):
    """`wrong`: what is wrong, or whether anything is."""
    failures.append(bool(wrong))
    if wrong:
        print(f"FAILED {what}" + ("" if wrong is True else f": {str(wrong)[:300]}"), flush=True)


def check_quiet(site, browser, of):
    urls = {e["request"]["url"] for e in browser.received("Network.requestWillBeSent")}
    check(f"{of}: it requests nothing else", site.strange + [u for u in urls if not u.startswith((site.url, "data:"))])
    site.strange = []
    kinds = ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"]
    check(f"{of}: nothing in the console", [entry for kind in kinds for entry in browser.received(kind)])


def check_pages(site, browser, directory):
    """Checks every page. Returns the least contrast."""
    least = []
    for name, width, scheme in itertools.product(NAMES, (1280, 390), ("light", "dark")):
        of = f"{name}-{width}-{scheme}"
        browser.open(f"{site.url}{name}", width, scheme)
        clip = browser.call("Page.getLayoutMetrics")["cssContentSize"] | {"scale": 1}
        clip["height"] = min(clip["height"], 6000)
        shot = browser.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        (directory / f"{of}.png").write_bytes(base64.b64decode(shot["data"]))
        browser.js("document.getElementById('lost').append('Away')")
        browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
        nodes, levels, colours = browser.call("Accessibility.getFullAXTree")["nodes"], browser.js(HEADINGS), browser.js(COLOURS)
        roles = collections.Counter(node["role"]["value"] for node in nodes if not node["ignored"])
        check(f"{of}: nothing is wider than the window", browser.js(WIDE))
        check(f"{of}: one h1", levels.count(1) != 1)
        check(f"{of}: headings in order", [pair for pair in itertools.pairwise([0, *levels]) if pair[1] > pair[0] + 1])
        check(f"{of}: one of each landmark", [role for role in ("banner", "main", "contentinfo") if roles[role] != 1])
        check(f"{of}: tables have captions and heads", browser.js(TABLES))
        check(f"{of}: a screen reader has these heads", roles["columnheader"] + roles["rowheader"] != browser.js(HEADS))
        check(f"{of}: foreign text is no markup", browser.js(MARKUP))
        check(f"{of}: contrast", [colour for colour in colours if colour[0] < 4.5])  # WCAG 2.2, AA
        check(f"{of}: its icon is in it", not browser.js(ICON))
        check_quiet(site, browser, of)
        least.append(min(colours)[0])
    return min(least)


def live(site, browser):
    """Keeps a page open while the status changes, the node stops and starts, and the reader hides the page."""
    browser.open(site.url)
    browser.js(READ)
    same = lambda: browser.js(f"{SAME}({json.dumps(site.last)})")
    check("open: it shows what is new", not until(lambda: len(site.asked) > 1 and same()))
    check("open: it asks every 3 s", not 2.5 < site.asked[-1] - site.asked[0] < 6)
    check("open: what the reader has done stays", browser.js(LOST))
    for site.now in ("broken", "healthy"):
        word = re.search(rb"<title>(\w+)", site.pages[f"/{site.now}"])[1].decode()
        words = lambda: browser.js("document.title.split(' ')[0] + document.querySelector('.badge').textContent")
        check(f"{site.now}: title and badge follow", not until(lambda: words() == word + word.capitalize()))
        check(f"{site.now}: all is what it would be in a new page", not until(same))
        check(f"{site.now}: foreign text is no markup", browser.js(MARKUP))
    check_quiet(site, browser, "open")
    for site.away in ("cut", "503"):
        check(f"{site.away}: the banner appears", not (words := until(lambda: browser.js(BANNER))))
        time.sleep(4)
        check(f"{site.away}: since when stays", browser.js(BANNER) != words)
        site.away = None
        check("back: the banner disappears", not until(lambda: not browser.js("document.getElementById('lost').textContent")))
    turn = "document.dispatchEvent(new Event('visibilitychange'))"
    browser.js(f"away = true; Object.defineProperty(document, 'hidden', {{get: () => away}}); {turn}")
    time.sleep(1)
    before = len(site.asked)
    time.sleep(7)
    check("hidden: it does not ask", len(site.asked) != before)
    browser.js(f"away = false; {turn}")
    check("visible again: it asks at once", not until(lambda: len(site.asked) > before, 2))
    until(lambda: len(site.asked) > before + 2)
    gaps = [b - a for a, b in itertools.pairwise(site.asked[before:])]
    check("visible again: it asks every 3 s", len(gaps) < 2 or not 2.5 < min(gaps) <= max(gaps) < 6)
    browser.open(site.url, script=False)
    before = len(site.asked)
    check("without JavaScript: it is loaded again", not until(lambda: len(site.asked) > before, 15))
    check("without JavaScript: every 10 s", not 9 < site.asked[-1] - site.asked[-2] < 14)


if len(sys.argv) != 2:
    sys.exit(__doc__)
directory = pathlib.Path(sys.argv[1])
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    browser = Browser(profile)
    try:
        site = Site(directory)
        least = check_pages(site, browser, directory)
        live(site, browser)
    finally:
        os.killpg(browser.process.pid, signal.SIGKILL)
        browser.process.wait()
print(f"page: checks={len(failures)} failed={sum(failures)} contrast_min={least:.2f}")
sys.exit(any(failures))
