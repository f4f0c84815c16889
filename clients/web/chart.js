// chart.js: of Debian's chart.js, the parts that the page draws with. Bundled when the program is built.
import {BarController, BarElement, CategoryScale, Chart, Legend, LineController, LineElement, LinearScale, LogarithmicScale, PointElement, Tooltip} from "/usr/share/javascript/chart.js/chart.mjs";

Chart.register(BarController, BarElement, CategoryScale, Legend, LineController, LineElement, LinearScale, LogarithmicScale, PointElement, Tooltip);
export {Chart};
