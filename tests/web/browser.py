"""Headless Chromium, driven by selenium, and what the tests ask of a page."""
import time

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PATIENCE = 90
KEYS = Keys

DROP = """
const [base64, name] = arguments, bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), data = new DataTransfer();
data.items.add(new File([bytes], name, {type: "image/png"}));
for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: data}));
"""


class Browser:
    def __init__(self, chromium, driver, downloads):
        options = Options()
        options.binary_location = chromium
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--window-size=1280,900"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(service=Service(driver), options=options)
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        self.screen(1280, 900)

    def close(self):
        self.driver.quit()

    def screen(self, width, height, dark=False):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def complaints(self):
        """What the console has said since the last call, but for answers that are no 2xx: those the page shows."""
        return [e["message"] for e in self.driver.get_log("browser") if "Failed to load resource" not in e["message"]]

    # -- the address
    def open(self, url):
        self.driver.get(url)

    def view(self, name):
        self.run("location.hash = arguments[0]", name)
        self.wait(lambda: self.run("return location.hash.slice(1)") == name, f"no view {name}")

    # -- elements
    def all(self, css):
        """Those that are seen."""
        return [e for e in self.driver.find_elements(By.CSS_SELECTOR, css) if e.is_displayed()]

    def one(self, css, text=None):
        def find():
            found = [e for e in self.all(css) if text is None or text in e.text]
            return found[0] if found else None
        return self.wait(find, f"no {css} {text or ''}")

    def text(self, css="main"):
        return self.one(css).text

    def click(self, css, text=None):
        element = self.one(css, text)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def type(self, css, value):
        element = self.one(css)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.clear()
        element.send_keys(value)

    def choose(self, css, value):
        self.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true})); arguments[0].dispatchEvent(new Event('change', {bubbles: true}))",
                 self.one(css), value)

    def press(self, *keys):
        """Held together: press(KEYS.CONTROL, KEYS.ENTER)."""
        chain = ActionChains(self.driver)
        for k in keys[:-1]:
            chain.key_down(k)
        chain.send_keys(keys[-1])
        for k in keys[:-1]:
            chain.key_up(k)
        chain.perform()

    def drop(self, base64, name="dropped.png"):
        self.run(DROP, base64, name)

    # -- waiting
    def wait(self, check, what, patience=PATIENCE):
        until = time.monotonic() + patience
        while True:
            try:
                value = check()
            except Exception as error:  # an element that was replaced meanwhile
                if "stale" not in type(error).__name__.lower():
                    raise
                value = None
            if value:
                return value
            assert time.monotonic() < until, f"{what}\n{self.driver.find_element(By.TAG_NAME, 'body').text[:2000]}"
            time.sleep(0.05)

    def wait_text(self, css, text):
        return self.wait(lambda: any(text in e.text for e in self.all(css)), f"no “{text}” in {css}")
