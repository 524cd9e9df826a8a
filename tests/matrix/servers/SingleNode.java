import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.transport.Netty4Plugin;

/** OpenSearch with HTTP, on 127.0.0.1; without what analyses languages and without scripts. Arguments: setting=value ... */
public class SingleNode extends Node {
    SingleNode(Environment environment) {
        super(environment, List.of(Netty4Plugin.class), false);
    }

    public static void main(String[] arguments) throws Exception {
        Settings.Builder settings = Settings.builder()
            .put("node.name", "single")
            .put("cluster.name", "single")
            .put("network.host", "127.0.0.1")
            .put("discovery.type", "single-node")
            .put("http.type", Netty4Plugin.NETTY_HTTP_TRANSPORT_NAME)
            .put("transport.type", Netty4Plugin.NETTY_TRANSPORT_NAME)
            .put("transport.port", "0")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        for (String argument : arguments) {
            int at = argument.indexOf('=');
            settings.put(argument.substring(0, at), argument.substring(at + 1));
        }
        Path config = Path.of(settings.get("path.home"), "config");
        SingleNode node = new SingleNode(
            InternalSettingsPreparer.prepareEnvironment(settings.build(), Map.of(), config, () -> "single"));
        node.start();
        System.out.println("SINGLE-NODE-STARTED");
        Thread.currentThread().join();
    }
}
