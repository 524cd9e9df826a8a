import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;

/** Runs a Debezium connector with a file of properties; writes three lines a record: topic, key and value. */
public class Capture {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (var reader = Files.newBufferedReader(Path.of(arguments[0]))) {
            properties.load(reader);
        }
        PrintStream out = new PrintStream(new FileOutputStream(arguments[1]), false, "UTF-8");
        DebeziumEngine.create(Json.class)
            .using(properties)
            .notifying(record -> {
                out.print(record.destination() + "\n" + record.key() + "\n" + record.value() + "\n");
                out.flush();
            })
            .build()
            .run();
    }
}
